/** The methods of the API, and the queue of each: a slow one keeps none of the others waiting. */
export const METHODS = ["flux", "esrgan", "imagen"] as const;

export type Method = (typeof METHODS)[number];

export const queueOf = (method: Method): string => `upscale-${method}`;

/** The event by which every process of the API learns that it must cancel a job. */
export const CANCEL = "cancel";

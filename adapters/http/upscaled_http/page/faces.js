// The faces that a job has found: a sentence, and a drawing over the picture.

import { count } from "./format.js";

const SVG = "http://www.w3.org/2000/svg";
// The radius of a point, as a share of the longer side of the face's box.
const POINT_SHARE = 0.025;

/** `3 faces found, 2 restored, 1 too small`; null if the job was not to look for faces. */
export function facesText({ faces }) {
  if (!faces) return null;
  if (faces.length === 0) return "No face found";
  const restored = faces.filter((face) => face.restored).length;
  const reasons = new Map();
  for (const { restored, why } of faces) {
    if (!restored) reasons.set(why, (reasons.get(why) ?? 0) + 1);
  }
  return [
    `${count(faces.length, "face")} found`,
    `${restored} restored`,
    ...[...reasons].map(([why, number]) => `${number} ${why}`),
  ].join(", ");
}

/** Draw boxes and points in pixels of the input; what is drawn last lies on top. */
export function drawFaces(drawing, { faces, input_size: { width, height } }) {
  drawing.setAttribute("viewBox", `0 0 ${width} ${height}`);
  drawing.replaceChildren(...[...(faces ?? [])].reverse().map(mark));
}

function mark({ box, points, restored, why }) {
  const group = document.createElementNS(SVG, "g");
  group.setAttribute("class", restored ? "restored" : "left-alone");
  const title = document.createElementNS(SVG, "title");
  title.textContent = restored ? "Restored" : `Not restored: ${why}`;
  const rectangle = shape("rect", box);
  const r = Math.max(box.width, box.height) * POINT_SHARE;
  group.append(title, rectangle, ...points.map(({ x, y }) => shape("circle", { cx: x, cy: y, r })));
  return group;
}

function shape(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

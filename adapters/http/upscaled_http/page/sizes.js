// The resulting size, planned as the worker plans it (models/upscaled_imaging/dimensions.py).
// A test compares the two.

// Width / height ratios this close count as equal: the picture is stretched to the exact target.
const ASPECT_TOLERANCE = 0.01;
export const MAX_SCALE = 16;
const MIN_SCALE = 1 / MAX_SCALE;
// The largest output of one call of Imagen.
const IMAGEN_OUTPUT_MEGAPIXELS = 17;

const MM_PER_INCH = 25.4;

/** Portrait, in millimetres. */
export const PAPERS = {
  A0: [841, 1189],
  A1: [594, 841],
  A2: [420, 594],
  A3: [297, 420],
  A4: [210, 297],
  A5: [148, 210],
  A6: [105, 148],
  letter: [215.9, 279.4],
  legal: [215.9, 355.6],
  tabloid: [279.4, 431.8],
};

/** The form fields that ask for this size, for an input of this size (or null). */
export function sizeFields(settings, input) {
  if (settings.size === "pixels") {
    const fields = {};
    if (settings.width) fields.target_width = settings.width;
    if (settings.height) fields.target_height = settings.height;
    return settings.width && settings.height ? { ...fields, ...cropField(settings) } : fields;
  }
  if (settings.size === "print") {
    const [width, height] = paperInches(settings, input);
    return {
      target_width_inches: width,
      target_height_inches: height,
      target_dpi: settings.dpi,
      ...cropField(settings),
    };
  }
  return { upscale_factor: settings.factor };
}

function cropField(settings) {
  return settings.cut ? { crop: settings.anchor } : {};
}

function paperInches(settings, input) {
  const own = [settings.inchesWide, settings.inchesHigh];
  const sides = settings.paper === "own" ? own : PAPERS[settings.paper].map((mm) => mm / MM_PER_INCH);
  const isInputLandscape = input !== null && input.width > input.height;
  const isLandscape =
    settings.orientation === "landscape" || (settings.orientation === "auto" && isInputLandscape);
  if (settings.paper === "own" && settings.orientation === "auto" && input === null) return sides;
  const [short, long] = sides[0] <= sides[1] ? sides : [sides[1], sides[0]];
  return isLandscape ? [long, short] : [short, long];
}

/** What is missing or wrong in the settings themselves, or null. */
export function settingsFault(settings) {
  const isBetween = (value, low, high) => value >= low && value <= high;
  if (settings.size === "factor" && !isBetween(settings.factor, 1, MAX_SCALE)) {
    return "Give a factor from 1 to 16.";
  }
  if (settings.size === "pixels") {
    if (!settings.width && !settings.height) return "Give a width, a height or both.";
    for (const side of [settings.width, settings.height]) {
      if (side !== null && !(Number.isInteger(side) && isBetween(side, 1, 200_000))) {
        return "Give whole numbers of pixels, from 1 to 200000.";
      }
    }
  }
  if (settings.size === "print") {
    if (!(Number.isInteger(settings.dpi) && isBetween(settings.dpi, 1, 100_000))) {
      return "Give dots per inch as a whole number, such as 300.";
    }
    const sides = [settings.inchesWide, settings.inchesHigh];
    if (settings.paper === "own" && !sides.every((side) => side > 0 && side <= 10_000)) {
      return "Give the paper's width and height in inches.";
    }
  }
  if (settings.quality !== null && !(Number.isInteger(settings.quality) && isBetween(settings.quality, 1, 100))) {
    return "Give a quality from 1 to 100.";
  }
  return null;
}

/**
 * Sizes in pixels: `scaled` is what upscaling produces, `output` the part that is kept, `cropX` and
 * `cropY` its corner in `scaled`, `excess` how far `scaled` passes the target (or null).
 */
export function planSize(fields, input) {
  const dpi = fields.target_dpi ?? null;
  const width = fields.target_width ?? inchesToPixels(fields.target_width_inches, dpi);
  const height = fields.target_height ?? inchesToPixels(fields.target_height_inches, dpi);
  if (width && height) return cover(input, { width, height }, fields.crop ?? "none");
  if (width) return uncropped(width / input.width, width, divide(input.height * width, input.width));
  if (height) {
    return uncropped(height / input.height, divide(input.width * height, input.height), height);
  }
  const factor = Number(String(fields.upscale_factor).replace("x", ""));
  return uncropped(factor, multiply(input.width, factor), multiply(input.height, factor));
}

function cover(source, target, crop) {
  const sourceAspect = source.width / source.height;
  const targetAspect = target.width / target.height;
  if (Math.abs(sourceAspect - targetAspect) <= ASPECT_TOLERANCE) {
    return uncropped(target.width / source.width, target.width, target.height);
  }
  const isTall = sourceAspect < targetAspect;
  const scale = isTall ? target.width / source.width : target.height / source.height;
  const scaled = isTall
    ? { width: target.width, height: divide(source.height * target.width, source.width) }
    : { width: divide(source.width * target.height, source.height), height: target.height };
  const excess = { x: scaled.width - target.width, y: scaled.height - target.height };
  if (crop === "none") return { scale, scaled, output: scaled, cropX: 0, cropY: 0, excess, target };
  return {
    scale,
    scaled,
    output: target,
    cropX: offset(excess.x, crop.includes("left"), crop.includes("right")),
    cropY: offset(excess.y, crop.includes("top"), crop.includes("bottom")),
    excess,
    target,
  };
}

function uncropped(scale, width, height) {
  const size = { width, height };
  return { scale, scaled: size, output: size, cropX: 0, cropY: 0, excess: null, target: size };
}

function offset(excess, keepsStart, keepsEnd) {
  if (keepsStart) return 0;
  return keepsEnd ? excess : Math.floor(excess / 2);
}

function inchesToPixels(inches, dpi) {
  return inches && dpi ? Math.max(1, Math.trunc(inches * dpi)) : null;
}

function multiply(side, factor) {
  return Math.max(1, Math.floor(side * factor + 0.5));
}

function divide(numerator, denominator) {
  return Math.max(1, Math.floor((2 * numerator + denominator) / (2 * denominator)));
}

/** Why this plan would be refused, or null. */
export function planFault(plan, input, method, limits) {
  const { scaled, output } = plan;
  const largest = Math.max(scaled.width / input.width, scaled.height / input.height);
  if (largest > MAX_SCALE) {
    return `${side(largest)} times the picture's sides; the limit is ${MAX_SCALE}. Give a smaller size.`;
  }
  if (plan.scale < MIN_SCALE) {
    return "Less than a sixteenth of the picture's sides. Check the unit of the size.";
  }
  const megapixels = (output.width * output.height) / 1e6;
  const isImagen = method === "imagen";
  const limit = Math.min(
    limits?.max_output_megapixels ?? Infinity,
    isImagen ? IMAGEN_OUTPUT_MEGAPIXELS : Infinity,
  );
  if (megapixels > limit) {
    return `${side(megapixels)} megapixels; the limit is ${limit}${isImagen ? " for Imagen" : ""}. Give a smaller size.`;
  }
  return null;
}

function side(value) {
  return value >= 100 ? Math.round(value) : Number(value.toPrecision(3));
}

// Numbers as text.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const oneDecimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const threeDigits = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** `1024 × 768` */
export function pixels({ width, height }) {
  return `${width} × ${height}`;
}

/** `12.6 MP` */
export function megapixels({ width, height }) {
  return `${threeDigits.format((width * height) / 1e6)} MP`;
}

/** `3.4 MB` */
export function bytes(count) {
  if (count < 1e3) return `${count} bytes`;
  if (count < 1e6) return `${whole.format(count / 1e3)} kB`;
  if (count < 1e9) return `${oneDecimal.format(count / 1e6)} MB`;
  return `${oneDecimal.format(count / 1e9)} GB`;
}

/** `42 s`, `3 min`, `2 h 5 min` */
export function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const rest = minutes % 60;
  return rest ? `${Math.floor(minutes / 60)} h ${rest} min` : `${minutes / 60} h`;
}

/** `3 pictures` */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}

/** A number with at most three significant digits. */
export function number(value) {
  return threeDigits.format(value);
}

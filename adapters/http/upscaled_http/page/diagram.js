// A drawing to scale: the picture as it is, inside the frame of the result.

import { megapixels, number, pixels } from "./format.js";

const drawing = document.getElementById("diagram-drawing");
const pixelsOutput = document.getElementById("pixels");
const detail = document.getElementById("outcome-detail");

const WIDTH = 144;
const HEIGHT = 120;
const MARGIN = 2;
// The least share of the frame for the picture, so that it is visible at a factor of 16 too.
const SMALLEST = 6;

/** Draw a plan for an input of this size; `thumbnail` is an address or null. */
export function drawPlan(input, plan, thumbnail, sizeName, values) {
  const outer = plan.scaled;
  const scale = Math.min((WIDTH - 2 * MARGIN) / outer.width, (HEIGHT - 2 * MARGIN) / outer.height);
  const width = outer.width * scale;
  const height = outer.height * scale;
  const left = (WIDTH - width) / 2;
  const top = (HEIGHT - height) / 2;
  const kept = {
    x: left + plan.cropX * scale,
    y: top + plan.cropY * scale,
    width: plan.output.width * scale,
    height: plan.output.height * scale,
  };
  const share = Math.max(input.width / outer.width, SMALLEST / Math.max(1, Math.min(width, height)));
  const small = { width: Math.min(width, width * share), height: Math.min(height, height * share) };
  const at = { x: left, y: top + height - small.height };
  const parts = [];
  if (thumbnail) parts.push(node("image", { href: thumbnail, x: left, y: top, width, height, preserveAspectRatio: "none", class: "ghost" }));
  parts.push(node("rect", { x: left, y: top, width, height, class: plan.excess ? "excess" : "frame" }));
  if (plan.excess) {
    if (thumbnail && plan.output === plan.target) parts.push(...cutParts(kept, { left, top, width, height }));
    const target = plan.output === plan.target ? kept : centred(plan, left, top, scale);
    parts.push(node("rect", { ...target, class: plan.output === plan.target ? "frame" : "paper" }));
  }
  if (thumbnail) parts.push(node("image", { href: thumbnail, ...at, ...small, preserveAspectRatio: "none" }));
  parts.push(node("rect", { ...at, ...small, class: thumbnail ? "seed" : "seed filled" }));
  drawing.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  drawing.replaceChildren(...parts);
  pixelsOutput.textContent = pixels(plan.output);
  detail.textContent = sentence(input, plan, sizeName, values);
}

/** Nothing is chosen yet: the size in words, drawn for a picture of 3 by 2. */
export function drawNothing(sizeName, plan, values) {
  if (plan) drawPlan({ width: 300, height: 200 }, plan, null, sizeName, values);
  else drawing.replaceChildren();
  pixelsOutput.textContent = sizeName;
  detail.textContent = "Add a picture to see its pixels.";
}

/** Cover what is cut off, on both sides of the part that is kept. */
function cutParts(kept, { left, top, width, height }) {
  const right = left + width;
  const bottom = top + height;
  const strips = [
    [left, top, kept.x - left, height],
    [kept.x + kept.width, top, right - kept.x - kept.width, height],
    [left, top, width, kept.y - top],
    [left, kept.y + kept.height, width, bottom - kept.y - kept.height],
  ];
  return strips
    .filter(([, , w, h]) => w > 0.5 && h > 0.5)
    .map(([x, y, w, h]) => node("rect", { x, y, width: w, height: h, class: "cut" }));
}

function centred(plan, left, top, scale) {
  return {
    x: left + (plan.excess.x / 2) * scale,
    y: top + (plan.excess.y / 2) * scale,
    width: plan.target.width * scale,
    height: plan.target.height * scale,
  };
}

function sentence(input, plan, sizeName, values) {
  const isPrint = values.size === "print";
  const own = isPrint ? `, which is ${Math.round(values.dpi / plan.scale)} dpi on this paper` : "";
  const parts = [`from ${pixels(input)}${own}`, megapixels(plan.output)];
  if (values.size === "pixels") parts.push(`${number(plan.scale)}× each side`);
  if (plan.excess && plan.output !== plan.target) {
    const { x, y } = plan.excess;
    parts.push(x ? `${x} px wider than asked` : `${y} px higher than asked`);
  } else if (plan.excess) {
    const { x, y } = plan.excess;
    parts.push(x ? `${x} px of the width are cut` : `${y} px of the height are cut`);
  }
  return `${parts.join("; ")}`;
}

function node(name, attributes) {
  const created = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) created.setAttribute(key, value);
  return created;
}

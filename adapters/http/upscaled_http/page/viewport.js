// The place of a picture in its pane: zoom and position, kept within bounds. No DOM.

const MAX_ZOOM = 8;

/** `zoom` is CSS pixels per pixel of the picture; `x`, `y` its upper left corner in the pane. */
export class Viewport {
  constructor() {
    this.picture = { width: 1, height: 1 };
    this.pane = { width: 1, height: 1 };
    this.zoom = 1;
    this.x = 0;
    this.y = 0;
    this.isFit = true;
  }

  get fitZoom() {
    return Math.min(this.pane.width / this.picture.width, this.pane.height / this.picture.height);
  }

  /** The picture's size in the pane. */
  get width() {
    return this.picture.width * this.zoom;
  }

  get height() {
    return this.picture.height * this.zoom;
  }

  setPicture(size) {
    this.picture = size;
    this.fit();
  }

  /** Take the pane's new size; the point in its middle stays there. */
  setPane(size) {
    const middle = this.middle();
    this.pane = size;
    if (this.isFit) this.fit();
    else {
      this.x = size.width / 2 - middle.x * this.zoom;
      this.y = size.height / 2 - middle.y * this.zoom;
      this.clamp();
    }
  }

  middle() {
    return {
      x: (this.pane.width / 2 - this.x) / this.zoom,
      y: (this.pane.height / 2 - this.y) / this.zoom,
    };
  }

  fit() {
    this.isFit = true;
    this.zoom = this.fitZoom;
    this.clamp();
  }

  /** Zoom, so that the point of the picture under (x, y) of the pane stays there. */
  zoomTo(zoom, x = this.pane.width / 2, y = this.pane.height / 2) {
    const smallest = Math.min(this.fitZoom, 1);
    const bounded = Math.min(Math.max(zoom, smallest), Math.max(MAX_ZOOM, this.fitZoom));
    const factor = bounded / this.zoom;
    this.x = x - (x - this.x) * factor;
    this.y = y - (y - this.y) * factor;
    this.zoom = bounded;
    this.isFit = Math.abs(bounded - this.fitZoom) < 1e-6;
    this.clamp();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.clamp();
  }

  get canPan() {
    return this.width > this.pane.width + 0.5 || this.height > this.pane.height + 0.5;
  }

  // A picture that is smaller than the pane is centred; a larger one leaves no gap.
  clamp() {
    this.x = clampSide(this.x, this.width, this.pane.width);
    this.y = clampSide(this.y, this.height, this.pane.height);
  }
}

function clampSide(position, length, pane) {
  if (length <= pane) return (pane - length) / 2;
  return Math.min(0, Math.max(pane - length, position));
}

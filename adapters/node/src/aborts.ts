/** Listening to `AbortSignal`s that many calls may share. */

const listeners = new WeakMap<AbortSignal, SharedListener>();

/**
 * Calls back when the signal aborts. Returns what stops that. A signal gets one listener of ours, however
 * many calls share it, because Node warns of a leak at the eleventh.
 */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  const listener = listeners.get(signal) ?? new SharedListener(signal);
  return listener.add(callback);
}

class SharedListener {
  readonly #callbacks = new Set<() => void>();
  readonly #signal: AbortSignal;

  constructor(signal: AbortSignal) {
    this.#signal = signal;
    listeners.set(signal, this);
    signal.addEventListener("abort", this.#handleAbort, { once: true });
  }

  add(callback: () => void): () => void {
    this.#callbacks.add(callback);
    return () => {
      if (this.#callbacks.delete(callback) && this.#callbacks.size === 0) this.#stop();
    };
  }

  readonly #handleAbort = (): void => {
    for (const callback of [...this.#callbacks]) callback();
  };

  #stop(): void {
    this.#signal.removeEventListener("abort", this.#handleAbort);
    listeners.delete(this.#signal);
  }
}

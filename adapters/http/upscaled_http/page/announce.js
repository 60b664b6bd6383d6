// Tells a screen reader what has changed.

const announcer = document.getElementById("announcer");
const GATHER_MS = 400;
let sentences = [];
let timer = null;

/** Say a sentence politely. Sentences that come together are said together. */
export function announce(sentence) {
  sentences.push(sentence);
  clearTimeout(timer);
  timer = setTimeout(() => {
    announcer.textContent = sentences.length > 3 ? `${sentences.length} pictures have changed.` : sentences.join(" ");
    sentences = [];
  }, GATHER_MS);
}

// Reports changes to a screen reader.

const announcer = document.getElementById("announcer");
const GATHER_MS = 400;
let sentences = [];
let timer = null;

/** Have a sentence read out. Sentences that come together are read together. */
export function announce(sentence) {
  sentences.push(sentence);
  clearTimeout(timer);
  timer = setTimeout(() => {
    announcer.textContent = sentences.length > 3 ? `${sentences.length} pictures have changed.` : sentences.join(" ");
    sentences = [];
  }, GATHER_MS);
}

// Pictures come by drop anywhere, by paste, from a file dialog or from the camera.

const veil = document.getElementById("veil");
const isFiles = (event) => event.dataTransfer?.types.includes("Files");

/** Call `take` with the files of each drop, paste or choice. */
export function watchDrops(take) {
  for (const [button, input] of [
    ["choose", "files"],
    ["photograph", "camera"],
  ]) {
    const chooser = document.getElementById(input);
    document.getElementById(button).addEventListener("click", () => chooser.click());
    chooser.addEventListener("change", () => {
      take([...chooser.files]);
      // The same file may be chosen again.
      chooser.value = "";
    });
  }

  document.addEventListener("paste", (event) => {
    const files = [...event.clipboardData.files];
    if (files.length === 0) return;
    event.preventDefault();
    take(files);
  });

  // The events come for each element that the pointer crosses.
  let depth = 0;
  const show = (by) => {
    depth = Math.max(0, depth + by);
    veil.classList.toggle("is-shown", depth > 0);
  };
  document.addEventListener("dragenter", (event) => isFiles(event) && show(1));
  document.addEventListener("dragleave", (event) => isFiles(event) && show(-1));
  document.addEventListener("dragover", (event) => isFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    show(-depth);
    take([...event.dataTransfer.files]);
  });
}

// Pictures come by drop anywhere, by paste, from a file dialog or from the camera. A folder that is
// dropped gives all its files.

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
    filesOf(event.dataTransfer).then(take);
  });
}

/** The files of a drop, which can be asked for only while its event is handled. */
async function filesOf(transfer) {
  const items = [...transfer.items].filter(({ kind }) => kind === "file");
  const dropped = items.map((item) => {
    const entry = item.webkitGetAsEntry();
    return entry?.isDirectory ? filesIn(entry) : item.getAsFile();
  });
  return (await Promise.all(dropped)).flat();
}

/** All files of a folder and of the folders in it, by their names. Hidden ones are no pictures. */
async function filesIn(folder) {
  const entries = [];
  const reader = folder.createReader();
  const read = () => new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
  // Each time it gives at most a hundred, and at last none.
  for (let some = await read(); some.length; some = await read()) entries.push(...some);
  const listed = entries.filter(({ name }) => !name.startsWith("."));
  listed.sort((one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }));
  const files = listed.map((entry) =>
    entry.isDirectory ? filesIn(entry) : new Promise((resolve) => entry.file(resolve, () => resolve([]))),
  );
  return (await Promise.all(files)).flat();
}

// The pictures that this browser sent, kept until their jobs are removed: to compare and to retry
// after a reload. The server deletes an upload when its job ends.

const STORE = "pictures";
let opening = null;

function open() {
  opening ??= new Promise((resolve, reject) => {
    const request = indexedDB.open("upscaled", 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "jobId" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  return opening;
}

async function transact(mode, act) {
  const store = (await open()).transaction(STORE, mode).objectStore(STORE);
  const request = act(store);
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/** Keep `{jobId, file, thumbnail, method, fields}`. Does nothing if the browser keeps nothing. */
export async function keep(picture) {
  await transact("readwrite", (store) => store.put(picture)).catch(() => {});
}

export async function forget(jobId) {
  await transact("readwrite", (store) => store.delete(jobId)).catch(() => {});
}

export async function forgetAll() {
  await transact("readwrite", (store) => store.clear()).catch(() => {});
}

/** The picture of one job, or null. */
export async function find(jobId) {
  return (await transact("readonly", (store) => store.get(jobId)).catch(() => null)) ?? null;
}

/** All pictures, by their jobs. */
export async function all() {
  const pictures = await transact("readonly", (store) => store.getAll()).catch(() => []);
  return new Map(pictures.map((picture) => [picture.jobId, picture]));
}

/** Remove the pictures of all jobs but these. */
export async function forgetOthers(jobIds) {
  const kept = await transact("readonly", (store) => store.getAllKeys()).catch(() => []);
  await Promise.all(kept.filter((id) => !jobIds.has(id)).map(forget));
}

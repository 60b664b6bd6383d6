/** Server-sent events (WHATWG HTML, section 9.2), as far as a job's stream needs them. */

// The server writes a line at least every 15 s.
const SILENCE_MS = 60_000;

/** The data of each event. Throws if the stream breaks, or if nothing comes for a minute. */
export async function* dataOf(response: Response, end: () => void): AsyncGenerator<string, void, void> {
  const decoder = new TextDecoder();
  let text = "";
  let data: string[] = [];
  let timer = setTimeout(end, SILENCE_MS);
  try {
    for await (const chunk of response.body ?? []) {
      clearTimeout(timer);
      timer = setTimeout(end, SILENCE_MS);
      text += decoder.decode(chunk as Uint8Array, { stream: true });
      const lines = text.split(/\r\n|\n|\r(?!$)/);
      text = lines.pop() ?? "";
      for (const line of lines) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length > 0) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    clearTimeout(timer);
  }
}

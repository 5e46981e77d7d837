// The server's API: see docs/use/app.md.

/** Asks the server; an answer that is no success becomes an Error with the server's line. */
export async function ask(path, init = {}) {
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("the program does not answer; is it still running?");
  }
  if (response.ok) return response;
  let reason = `${response.status} ${response.statusText}`;
  try {
    reason = (await response.json()).error ?? reason;
  } catch {
    // not our server's words
  }
  throw Object.assign(new Error(reason), { status: response.status });
}

/** A form with a file and the options of the page. */
export function makeForm(field, file, options) {
  const form = new FormData();
  form.append(field, file);
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  return form;
}

/** Predicts a picture: the JSON as it came, what it says, and the server's times in milliseconds. */
export async function predict(file, options, signal) {
  const response = await ask("api/predict", { method: "POST", body: makeForm("picture", file, options), signal });
  const text = await response.text();
  const entries = (response.headers.get("Server-Timing") ?? "").split(", ").map((part) => part.split(";dur="));
  return { text, prediction: JSON.parse(text), times: Object.fromEntries(entries.map(([k, v]) => [k, Number(v)])) };
}

/** Gives a file to the user. */
export function save(content, type, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

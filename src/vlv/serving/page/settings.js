// The settings form, as fields of requests.

const form = document.querySelector("#settings");

form.addEventListener("submit", (event) => event.preventDefault());
form.querySelector("#new-seed").addEventListener("click", () => {
  form.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
});

/** Whether every field is valid; if not, the browser shows what is wrong with the first. */
export function validate() {
  const { temperature, min_new_tokens } = form.elements;
  temperature.setCustomValidity(
    value("temperature") > 0 && value("num_beams") > 1 ? "Sampling needs one beam: set beams to 1, or the temperature to 0." : "",
  );
  min_new_tokens.setCustomValidity(
    value("min_new_tokens") > value("max_new_tokens") ? "The minimum length is above the maximum length." : "",
  );
  const invalid = form.querySelector(":invalid");
  const hidden = invalid?.closest("details");
  if (hidden) hidden.open = true;
  return form.reportValidity();
}

function value(name) {
  return form.elements[name].valueAsNumber;
}

/** Fields of POST /v1/vlv/caption. */
export function captionFields() {
  const fields = {};
  for (const name of ["num_beams", "max_new_tokens", "min_new_tokens", "seed"]) {
    fields[name] = value(name);
  }
  const temperature = value("temperature");
  return temperature > 0 ? { ...fields, temperature, top_p: value("top_p") } : fields;
}

/** Fields of the requests that generate pictures. */
export function samplingFields() {
  return {
    guidance_scale: value("guidance_scale"),
    num_inference_steps: value("num_inference_steps"),
    scheduler: form.elements.scheduler.value,
    seed: value("seed"),
  };
}

/** Whether the caption takes the place of the embeddings in the last steps. */
export function lateCaption() {
  return form.dataset.tab === "caption" && form.dataset.lateCaptions === "true" && form.elements.late_caption.value !== "";
}

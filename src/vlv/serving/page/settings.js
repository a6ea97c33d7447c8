// What a person sets, as the fields of requests.

const form = document.querySelector("#settings");

form.addEventListener("submit", (event) => event.preventDefault());
form.querySelector("#new-seed").addEventListener("click", () => {
  form.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 1_000_000;
});

/** Whether every field can be used; if not, the browser says what is wrong with the first. */
export function usable() {
  const { temperature, min_new_tokens } = form.elements;
  temperature.setCustomValidity(
    value("temperature") > 0 && value("num_beams") > 1 ? "Sampling takes one beam: set beams to 1, or the temperature to 0." : "",
  );
  min_new_tokens.setCustomValidity(
    value("min_new_tokens") > value("max_new_tokens") ? "The shortest caption is longer than the longest." : "",
  );
  const wrong = form.querySelector(":invalid");
  const hidden = wrong?.closest("details");
  if (hidden) hidden.open = true;
  return form.reportValidity();
}

function value(name) {
  return form.elements[name].valueAsNumber;
}

/** Of POST /v1/vlv/caption. */
export function ofCaptions() {
  const fields = {};
  for (const name of ["num_beams", "max_new_tokens", "min_new_tokens", "seed"]) {
    fields[name] = value(name);
  }
  const temperature = value("temperature");
  return temperature > 0 ? { ...fields, temperature, top_p: value("top_p") } : fields;
}

/** Of everything that draws. */
export function ofDrawing() {
  return {
    guidance_scale: value("guidance_scale"),
    num_inference_steps: value("num_inference_steps"),
    scheduler: form.elements.scheduler.value,
    seed: value("seed"),
  };
}

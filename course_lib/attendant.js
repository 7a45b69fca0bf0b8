// What ipywidgets' front end leaves out around a figure's controls: the line that says "computing …" (`value`), names
// for slider handles and film buttons, and keys that JupyterLab would otherwise take for the notebook's own.
function name(box) {
  const label = (element) => element.closest(".widget-inline-hbox")?.querySelector(".widget-label")?.textContent ?? "";
  for (const row of box.querySelectorAll(".widget-slider")) {
    const handles = row.querySelectorAll("[role=slider]");
    const ends = handles.length > 1 ? [", from", ", to"] : [""];
    handles.forEach((handle, i) => handle.setAttribute("aria-label", label(handle) + ends[i]));
    const readout = row.querySelector("[contenteditable]");
    readout?.setAttribute("role", "textbox");
    readout?.setAttribute("aria-label", `${label(readout)}, value`);
  }
  for (const film of box.querySelectorAll(".widget-play")) {
    film.querySelectorAll("button").forEach((button, i) => {
      button.title = ["play or pause", "stop", "repeat"][i];
      button.setAttribute("aria-label", button.title);
    });
  }
}

// In a notebook's command mode an arrow moves to the next cell and a letter is a command, also while a menu has the focus.
function keep(event) {
  const plain = !(event.ctrlKey || event.metaKey || event.altKey) && event.key !== "Escape";
  if (plain && event.target.matches("select, input, button, [role=slider], [contenteditable]")) event.stopPropagation();
}

function render({ model, el }) {
  const line = document.createElement("span");
  el.classList.add("course-attendant");
  el.setAttribute("role", "status");
  el.append(line);
  const say = () => { line.textContent = model.get("value"); };
  model.on("change:value", say);
  say();

  let box = null;
  const renaming = new MutationObserver(() => name(box));
  const attach = () => {
    box = el.closest(".course-interactive");
    if (!box) { waiting = requestAnimationFrame(attach); return; } // not in the page yet
    box.addEventListener("keydown", keep);
    renaming.observe(box, { childList: true, subtree: true });
    name(box);
  };
  let waiting = requestAnimationFrame(attach);
  return () => {
    cancelAnimationFrame(waiting);
    renaming.disconnect();
    box?.removeEventListener("keydown", keep);
    model.off("change:value", say);
  };
}

export default { render };

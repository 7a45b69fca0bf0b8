// A picture to point at and to draw on. What the pointer does over the plotting area (`area`: its left, top, right and
// bottom edge as shares of the picture) goes to the kernel as `stroke`: number of the stroke, then where it began and
// where the pointer is now, as shares of the area from its upper left corner.
function render({ model, el }) {
  const picture = document.createElement("div");
  const outline = document.createElement("div"); // seen at once, while the kernel still draws
  el.classList.add("course-surface");
  el.append(picture, outline);

  const show = () => { picture.innerHTML = model.get("value"); };
  const frame = () => {
    const image = picture.querySelector("img")?.getBoundingClientRect();
    if (!image) return null; // an error message stands there
    const [left, top, right, bottom] = model.get("area");
    return {
      x: image.left + left * image.width, width: (right - left) * image.width,
      y: image.top + top * image.height, height: (bottom - top) * image.height,
    };
  };
  const share = (event, area) => [(event.clientX - area.x) / area.width, (event.clientY - area.y) / area.height];
  const clamp = (number) => Math.min(1, Math.max(0, number));

  let start = null;
  const send = (end) => {
    model.set("stroke", [model.get("stroke")[0], ...start, ...end]);
    model.save_changes(); // held back by ipywidgets while the kernel is busy, and then only the latest goes
  };
  const draw = (area, end) => {
    const corner = el.getBoundingClientRect();
    const [left, right] = [start[0], end[0]].sort((a, b) => a - b);
    const [top, bottom] = [start[1], end[1]].sort((a, b) => a - b);
    Object.assign(outline.style, {
      display: "block",
      left: `${area.x - corner.left + left * area.width}px`, width: `${(right - left) * area.width}px`,
      top: `${area.y - corner.top + top * area.height}px`, height: `${(bottom - top) * area.height}px`,
    });
  };

  el.addEventListener("pointerdown", (event) => {
    const area = frame();
    const place = area && share(event, area);
    if (event.button !== 0 || !place || place.some((number) => number < 0 || number > 1)) return;
    event.preventDefault(); // no selection, no dragging of the picture itself
    el.setPointerCapture(event.pointerId);
    start = place;
    model.set("stroke", [model.get("stroke")[0] + 1, ...start, ...start]);
    model.save_changes();
  });
  el.addEventListener("pointermove", (event) => {
    const area = start && frame();
    if (!area) return;
    const end = share(event, area).map(clamp);
    if (model.get("outlined")) draw(area, end);
    send(end);
  });
  const stop = () => { start = null; outline.style.display = "none"; };
  el.addEventListener("pointerup", stop);
  el.addEventListener("pointercancel", stop);

  model.on("change:value", show);
  show();
  return () => model.off("change:value", show);
}

export default { render };

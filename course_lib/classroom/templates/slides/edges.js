// For `--check`: what is wrong with each slide, measured after slides.js has done what it can. All slides are laid on
// each other at their full size, fragments included; slides.js drew them so, and reveal.js scales them only as a whole.
() => {
  const style = document.createElement("style");
  style.textContent = `
    .slides section, .slides .fragment { display: block !important; visibility: visible !important; }
    .slides > section > section { position: absolute !important; top: 0 !important; left: 0 !important; }
    mjx-assistive-mml { display: none !important; }`;
  document.head.append(style);
  const slides = document.querySelector(".slides"), scale = slides.getBoundingClientRect().width / 1280;

  function edges(slide) {
    const range = document.createRange();
    range.selectNodeContents(slide);
    const boxes = [...range.getClientRects()].filter(box => box.width && box.height);
    const origin = slides.getBoundingClientRect();
    return {
      left: Math.min(...boxes.map(box => box.left - origin.left)) / scale,
      right: Math.max(...boxes.map(box => box.right - origin.left)) / scale,
      bottom: Math.max(...boxes.map(box => box.bottom - origin.top)) / scale,
    };
  }

  function faults(slide) {
    const found = [], { left, right, bottom } = edges(slide);
    if (left < 0) found.push(`${Math.ceil(-left)} px over the left edge`);
    if (right > 1280) found.push(`${Math.ceil(right - 1280)} px over the right edge`);
    if (bottom > 720) found.push(`${Math.ceil(bottom - 720)} px over the lower edge`);
    const shown = slide.cloneNode(true);
    for (const part of shown.querySelectorAll(".head, aside, pre, code, mjx-container")) part.remove();
    if (/\$|\\[a-z(\[]/.test(shown.textContent)) found.push("a formula is not typeset");
    if (slide.querySelector("mjx-merror")) found.push("a formula has an error");
    if (!shown.textContent.trim() && !slide.querySelector("img, pre, mjx-container")) found.push("it is empty");
    return found;
  }

  return [...document.querySelectorAll(".slides > section > section")].map(faults);
}

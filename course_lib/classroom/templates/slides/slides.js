// Typeset, fit, then start reveal.js. A slide is fitted while all of them still lie on each other at their full size:
// its figures take the height that is left; if that is not enough, its text shrinks a little.

const WIDTH = 1280, HEIGHT = 720;
const SHARPEST = 1.5;  // pixels that a figure has for each CSS pixel of its stated width
const SMALLEST_FIGURE = 0.75, SMALLEST_TEXT = 0.7;

const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const slides = () => all(".slides > section > section");

// The largest of a range of sizes at which `fits(size)` holds; the smallest, if none does.
function largest(low, high, fits) {
  if (fits(high)) return high;
  for (let step = 0; step < 8; step++) {
    const middle = (low + high) / 2;
    if (fits(middle)) low = middle; else high = middle;
  }
  fits(low);
  return low;
}

// A slide without a heading of its own says in which section it stands.
function repeatHeadings() {
  for (const stack of all(".slides > section")) {
    const heading = stack.querySelector("h2, h1");
    for (const slide of all("section", stack)) {
      if (!heading || slide.querySelector("h1, h2, h3")) continue;
      const head = document.createElement("div");
      head.className = "head";
      head.innerHTML = heading.innerHTML;
      slide.prepend(head);
    }
  }
}

function fit(slide) {
  const low = () => slide.getBoundingClientRect().height <= HEIGHT;
  const text = size => {
    slide.style.fontSize = `${100 * size}%`;
    return low();
  };
  const images = all(".output img", slide);
  const widths = images.map(image => image.width || image.naturalWidth / SHARPEST);
  const figures = size => {
    images.forEach((image, i) => { image.style.width = `${widths[i] * size}px`; });
    return low();
  };
  slide.dataset.figures = images.length ? largest(SMALLEST_FIGURE, SHARPEST, figures) : 1;
  slide.dataset.text = low() ? 1 : largest(SMALLEST_TEXT, 1, text);
  for (const formula of all("mjx-container[display]", slide)) narrow(formula);
  slide.dataset.height = Math.ceil(slide.getBoundingClientRect().height);
}

// A displayed formula that is wider than its slide is set smaller.
function narrow(formula) {
  const ratio = formula.clientWidth / formula.firstElementChild.getBoundingClientRect().width;
  if (ratio < 1) formula.style.fontSize = `${Math.floor(100 * Math.max(ratio, SMALLEST_TEXT))}%`;
}

// The speaker's window has no MathJax; browsers draw the MathML that MathJax keeps for screen readers.
function plainFormulas() {
  for (const formula of all("aside.notes mjx-container")) {
    formula.replaceWith(formula.querySelector("math"));
  }
}

async function start() {
  repeatHeadings();
  await MathJax.typesetPromise();
  // Nothing may change its size later: `document.fonts.ready` would only wait for what some layout has asked for.
  await Promise.all([...all("img").map(image => image.decode()), ...[...document.fonts].map(font => font.load())]);
  plainFormulas();
  slides().forEach(fit);
  document.body.classList.remove("measuring");
  await Reveal.initialize({
    width: WIDTH, height: HEIGHT, margin: 0, center: false, hash: true, slideNumber: "c/t", controls: false, transition: "none",
    pdfSeparateFragments: false, plugins: [RevealNotes],
  });
}

document.body.classList.add("measuring");
window.MathJax = {
  tex: { inlineMath: [["$", "$"], ["\\(", "\\)"]], displayMath: [["$$", "$$"], ["\\[", "\\]"]], processEscapes: true },
  options: { enableMenu: false },
  startup: { typeset: false, ready() { MathJax.startup.defaultReady(); start(); } },
};

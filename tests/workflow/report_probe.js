// Runs beside the report in a browser test: reads what a person would see and leaves it as JSON in the document.
const frame = document.querySelector("iframe");
const errors = [];

function luminance(colour) {
  const [r, g, b] = colour.match(/[\d.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function background(element, view) {
  for (let node = element; node; node = node.parentElement) {
    const colour = view.getComputedStyle(node).backgroundColor;
    if (!/, 0\)$/.test(colour) && colour !== "transparent") return colour;
  }
  return "rgb(255, 255, 255)";
}

function lowestContrast(page, view) {
  let lowest = { ratio: 21, text: "" };
  for (const element of page.body.querySelectorAll("*")) {
    const own = [...element.childNodes].filter((n) => n.nodeType === 3).map((n) => n.data.trim()).join("");
    if (!own || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const pair = [luminance(view.getComputedStyle(element).color), luminance(background(element, view))].sort((a, b) => a - b);
    const ratio = (pair[1] + 0.05) / (pair[0] + 0.05);
    if (ratio < lowest.ratio) lowest = { ratio, text: own.slice(0, 40) };
  }
  return lowest;
}

function column(page, index) {
  return [...page.querySelectorAll("#overview tbody tr")].map((row) => row.cells[index].dataset.value ?? row.cells[index].textContent);
}

// axe-core's rules over the page with every fold opened; what it holds against the page, worst first.
async function violations(page, view) {
  if (!page.defaultView.parent.AXE) return null;
  for (const part of page.querySelectorAll("details")) part.open = true;
  const script = page.createElement("script");
  script.textContent = await (await fetch(page.defaultView.parent.AXE)).text();
  page.head.append(script);
  const found = await view.axe.run(page, { resultTypes: ["violations"] });
  return found.violations.map((rule) => ({ id: rule.id, impact: rule.impact, nodes: rule.nodes.map((node) => node.html.slice(0, 200)) }));
}

frame.addEventListener("load", async () => {
  const [page, view] = [frame.contentDocument, frame.contentWindow];
  view.addEventListener("error", (event) => errors.push(event.message));
  const button = page.querySelectorAll("#overview thead button")[1];
  button.click();
  const descending = column(page, 1);
  const said = page.querySelectorAll("#overview thead th")[1].getAttribute("aria-sort");
  button.click();
  const seen = {
    errors,
    descending,
    ascending: column(page, 1),
    said,
    page_width: page.documentElement.scrollWidth,
    frame_width: frame.clientWidth,
    images: [...page.images].map((image) => [image.naturalWidth, image.clientWidth, image.clientHeight]),
    requests: view.performance.getEntriesByType("resource").map((entry) => entry.name).filter((name) => !name.startsWith("data:")),
    contrast: lowestContrast(page, view),
    headings: [...page.querySelectorAll("h1, h2, h3")].map((heading) => heading.tagName),
    duplicate_ids: page.querySelectorAll("[id]").length - new Set([...page.querySelectorAll("[id]")].map((e) => e.id)).size,
    missing_anchors: [...page.querySelectorAll('a[href^="#"]')].filter((a) => !page.querySelector(a.getAttribute("href"))).length,
  };
  const stops = page.querySelectorAll("a[href], button, summary, [tabindex='0']");
  seen.first_stop = stops[0].getAttribute("href");
  seen.unreachable = [...page.querySelectorAll("*")].filter((e) => e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0
    && ["auto", "scroll"].includes(view.getComputedStyle(e).overflowX) && e.tabIndex < 0 && !e.querySelector("a, button")).length;
  seen.violations = await violations(page, view);
  document.body.dataset.seen = JSON.stringify(seen);
});

// Draws the plotly figures of a page with plotly.min.js, which was loaded before, in the colours of
// the page's theme. Deferred scripts end before the page counts as loaded, so a page that is printed
// at once has its figures. Paper is light.
(() => {
  "use strict";
  const root = document.documentElement;

  const theme = (text, line, grid, control) => {
    const axis = {
      automargin: true, gridcolor: grid, linecolor: line, zerolinecolor: grid, ticks: "outside", tickcolor: line,
      separatethousands: true, title: {standoff: 8},
    };
    const error = {error_x: {color: text}, error_y: {color: text}};
    return {data: {heatmap: [{colorscale: "Viridis"}], bar: [error]}, layout: {
      font: {color: text, family: "system-ui, sans-serif"},
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      colorway: ["#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2"],
      xaxis: axis,
      yaxis: axis,
      margin: {l: 56, r: 16, t: 48, b: 48},
      coloraxis: {colorbar: {outlinewidth: 0}},
      hoverlabel: {align: "left"},
      shapedefaults: {line: {color: text}},
      title: {x: 0.02},
      sliderdefaults: {bgcolor: control, bordercolor: line, tickcolor: line, activebgcolor: line},
      updatemenudefaults: {bgcolor: control, bordercolor: line},
    }};
  };
  const themes = {
    light: theme("#24292f", "#57606a", "#d8dee4", "#f6f8fa"),
    dark: theme("#ced6dd", "#8b949e", "#30363d", "#21262d"),
  };
  const current = () => themes[root.dataset.theme === "dark" ? "dark" : "light"];

  // The last two keep the figure, which may hold the words of a note, from plotly's cloud.
  const config = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: ""};

  // On a phone a legend beside the curves leaves them no room, and one among them covers them.
  const below = {orientation: "h", x: 0, xanchor: "left", yref: "container", y: 0.01, yanchor: "bottom"};
  const isPhone = matchMedia("(max-width: 600px)").matches;

  const paint = (host) => {
    const figure = JSON.parse(host.querySelector("script").textContent);
    if (isPhone) figure.layout.legend = {...figure.layout.legend, ...below};
    host.height = figure.layout.height ?? 450; // plotly's own
    host.canvas = document.createElement("div");
    host.append(host.canvas);
    Plotly.newPlot(host.canvas, {
      data: figure.data,
      frames: figure.frames,
      layout: {...figure.layout, template: current()},
      config: {...figure.config, ...config},
    }).then(() => { host.dataset.state = "drawn"; });
  };

  const hosts = [...document.querySelectorAll(".marn-fig")];
  hosts.forEach(paint);

  const PRINT_WIDTH = 640; // pixels; fits between the margins of A4 and letter paper
  let screenTheme; // while the page is being printed
  const print = (now) => {
    if (now === (screenTheme !== undefined)) return;
    const theme = now ? "light" : screenTheme;
    screenTheme = now ? root.dataset.theme ?? "light" : undefined;
    root.dataset.theme = theme;
    const size = now ? {autosize: false, width: PRINT_WIDTH} : {autosize: true, width: null};
    for (const {canvas, style, height} of hosts) {
      // A figure that does not fit leaves the end of its sheet white, and one of rows needs them.
      const rows = canvas._fullLayout.yaxis?.type === "category";
      style.zoom = now ? (rows ? 0.65 : 0.75) : "";
      style.minHeight = now ? 0 : `${height}px`;
      Plotly.relayout(canvas, {...size, height: now && !rows ? 0.8 * height : height, template: current()});
    }
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  const paper = matchMedia("print"); // an event that comes late must not print again
  paper.addEventListener("change", () => print(paper.matches));

  new MutationObserver(() => {
    for (const host of hosts) Plotly.relayout(host.canvas, {template: current()});
  }).observe(root, {attributes: true, attributeFilter: ["data-theme"]});

  // The theme leaves the book's name outside of every landmark.
  const sidebar = document.querySelector(".bd-sidebar-primary");
  sidebar?.setAttribute("role", "complementary");
  sidebar?.setAttribute("aria-label", "Book");

  // A box that scrolls fades where it goes on, and can be reached by the keyboard.
  const mark = (box) => {
    const end = box.scrollWidth - box.clientWidth - 1;
    box.classList.toggle("more-below", box.scrollTop < box.scrollHeight - box.clientHeight - 1);
    box.classList.toggle("more-left", end > 0 && box.scrollLeft > 1);
    box.classList.toggle("more-right", box.scrollLeft < end);
    if (end > 0) box.tabIndex = 0;
  };
  const watch = new ResizeObserver((entries) => entries.forEach((entry) => mark(entry.target)));
  const boxes = ".bd-content :is(pre, .cell_output > .output, .pst-scrollable-table-container, div.math, .marn-fig, .marn-note > div)";
  for (const box of document.querySelectorAll(boxes)) {
    watch.observe(box);
    box.addEventListener("scroll", () => mark(box), {passive: true});
  }
})();

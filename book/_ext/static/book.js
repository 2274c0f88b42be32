// Draws the plotly figures of a page with the plotly.min.js next to this file, in the colours of the
// page's theme: each when it comes near the window, all of them before the page is printed. Paper is
// light.
(() => {
  "use strict";
  const here = document.currentScript.src;
  const root = document.documentElement;

  const theme = (text, line, grid, control) => {
    const axis = {
      automargin: true, gridcolor: grid, linecolor: line, zerolinecolor: grid, ticks: "outside", tickcolor: line,
    };
    return {data: {heatmap: [{colorscale: "Viridis"}]}, layout: {
      font: {color: text, family: "system-ui, sans-serif"},
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      colorway: ["#4c78a8", "#f58518", "#54a24b", "#e45756", "#72b7b2", "#b279a2"],
      xaxis: axis,
      yaxis: axis,
      margin: {l: 56, r: 16, t: 48, b: 48},
      coloraxis: {colorbar: {outlinewidth: 0}},
      hoverlabel: {align: "left"},
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

  let library;
  const plotly = () => library ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = new URL("plotly.min.js", here).href;
    script.onload = resolve;
    script.onerror = () => reject(new Error("plotly.min.js did not load"));
    document.head.append(script);
  });

  // The last two keep the figure, which may hold the words of a note, from plotly's cloud.
  const config = {responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: ""};

  // Draws within this call, since a page that is being printed waits for no promise.
  const paint = (host) => {
    if (host.canvas) return;
    const figure = JSON.parse(host.querySelector("script").textContent);
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
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) plotly().then(() => paint(entry.target));
  }, {rootMargin: "600px"});
  for (const host of hosts) near.observe(host);
  // Printing cannot wait for the script.
  if (hosts.length) addEventListener("load", () => (window.requestIdleCallback ?? setTimeout)(plotly));

  const PRINT_WIDTH = 640; // pixels; fits between the margins of A4 and letter paper
  let screenTheme; // while the page is being printed
  const print = (now) => {
    if (now === (screenTheme !== undefined)) return;
    const theme = now ? "light" : screenTheme;
    screenTheme = now ? root.dataset.theme ?? "light" : undefined;
    root.dataset.theme = theme;
    if (!window.Plotly) return;
    const size = now ? {autosize: false, width: PRINT_WIDTH} : {autosize: true, width: null};
    for (const host of hosts) {
      if (now) paint(host);
      if (host.canvas) Plotly.relayout(host.canvas, {...size, template: current()});
    }
  };
  addEventListener("beforeprint", () => print(true));
  addEventListener("afterprint", () => print(false));
  matchMedia("print").addEventListener("change", (media) => print(media.matches));

  new MutationObserver(() => {
    for (const host of hosts) if (host.canvas) Plotly.relayout(host.canvas, {template: current()});
  }).observe(root, {attributes: true, attributeFilter: ["data-theme"]});
})();

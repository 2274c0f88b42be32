// Draws the plotly figures of a page: each when it comes near the window, in the colours of the page's
// theme, with the plotly.min.js that lies beside this file.
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
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error("plotly.min.js did not load"));
    document.head.append(script);
  });

  const hosts = [...document.querySelectorAll(".marn-fig")];
  const draw = async (host) => {
    if (host.dataset.state) return;
    host.dataset.state = "drawing";
    const figure = JSON.parse(host.querySelector("script").textContent);
    const Plotly = await plotly();
    const canvas = document.createElement("div");
    host.append(canvas);
    await Plotly.newPlot(canvas, {
      data: figure.data,
      frames: figure.frames,
      layout: {...figure.layout, template: current()},
      config: {responsive: true, displaylogo: false, ...figure.config},
    });
    host.canvas = canvas;
    host.dataset.state = "drawn";
  };

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, {rootMargin: "600px"});
  for (const host of hosts) near.observe(host);
  addEventListener("beforeprint", () => hosts.forEach(draw));

  new MutationObserver(() => {
    for (const host of hosts) if (host.canvas) window.Plotly.relayout(host.canvas, {template: current()});
  }).observe(root, {attributes: true, attributeFilter: ["data-theme"]});
})();

"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  root.classList.add("scripted");
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
  const faded = (rgb, alpha) => `rgba(${rgb.match(/[\d.]+/g).slice(0, 3).join(",")},${alpha})`;
  const config = { responsive: true, displayModeBar: false, showTips: false };

  function figure(spec) {
    const box = document.createElement("figure");
    if (spec.wide) box.className = "wide-figure";
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = spec.title;
    caption.append(name, spec.note ? `  ${spec.note}` : "");
    const draw = document.createElement("div");
    draw.className = "draw";
    draw.setAttribute("role", "img");
    draw.setAttribute("aria-label", `${spec.title}. ${spec.note}`);
    box.append(caption, draw);
    document.getElementById(spec.place).append(box);
    return { spec, draw };
  }

  // plotly fills across a gap of the line, so what is filled goes down to zero at both of its ends
  function grounded(x, y) {
    const found = { x: [], y: [] };
    const put = (at, value) => { found.x.push(at); found.y.push(value); };
    y.forEach((value, i) => {
      if (value === null) return;
      if (i > 0 && y[i - 1] === null) put(x[i], 0);
      put(x[i], value);
      if (i + 1 < y.length && y[i + 1] === null) put(x[i], 0);
    });
    return found;
  }

  const kinds = {
    points: (t, rgb) => [{ type: "scatter", mode: "markers", marker: { color: faded(rgb, t.faint ? 0.35 : 1), size: t.faint ? 4 : 6 } }],
    line: (t, rgb) => [{ type: "scatter", mode: "lines", line: { color: rgb, width: t.dash === "solid" ? 2 : 1.5, dash: t.dash, shape: t.step ? "hv" : "linear" } }],
    area: (t, rgb) => [
      { type: "scatter", mode: "lines", ...grounded(t.x, t.y), fill: "tozeroy", fillcolor: faded(rgb, 0.28), line: { width: 0, color: rgb }, hoverinfo: "skip", hovertemplate: null },
      { type: "scatter", mode: "lines", line: { color: rgb, width: 1 } },
    ],
    bars: (t, rgb) => [{ type: "bar", marker: { color: faded(rgb, 0.75) } }],
    spread: (t, rgb) => [{ type: "scatter", mode: "markers", marker: { color: rgb, size: 5 }, error_y: { type: "data", array: t.error, color: faded(rgb, 0.5), thickness: 1, width: 0 } }],
  };

  function traces(t) {
    const rgb = colour(t.colour === "load" ? "--load" : `--c${t.colour}`);
    const shown = { x: t.x, name: t.name, hovertemplate: `%{y:,.4~r}<extra>${t.name}</extra>` };
    if (t.kind === "band") {
      const edge = { ...shown, type: "scatter", mode: "lines", line: { width: 0, color: rgb }, hoverinfo: "skip", hovertemplate: null, showlegend: false };
      return [{ ...edge, y: t.low }, { ...edge, y: t.high, fill: "tonexty", fillcolor: faded(rgb, 0.2) }];
    }
    return kinds[t.kind](t, rgb).map((look) => ({ ...shown, y: t.y, ...look }));
  }

  function paint({ spec, draw }) {
    const text = colour("--text"), muted = colour("--muted"), grid = colour("--grid");
    const axis = { gridcolor: grid, linecolor: grid, zeroline: false, automargin: true };
    const title = (words) => ({ text: words, font: { size: 11 } });
    const dates = { type: "date", tickangle: 0, nticks: draw.clientWidth < 420 ? 4 : 8, hoverformat: "%Y-%m-%d %H:%M UTC" };
    return Plotly.react(draw, spec.traces.flatMap(traces), {
      autosize: true, margin: { l: 50, r: 12, t: 8, b: 40 }, showlegend: false, hovermode: "closest", dragmode: spec.wide ? "zoom" : false,
      paper_bgcolor: colour("--card"), plot_bgcolor: colour("--card"), bargap: 0.08,
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: muted },
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: text, size: 12 } },
      xaxis: { ...axis, title: title(spec.x), ...(spec.range ? { range: spec.range } : {}), fixedrange: !spec.wide, ...(spec.dates ? dates : { type: "linear", nticks: 8 }) },
      yaxis: { ...axis, title: title(spec.y), fixedrange: true, nticks: 6, rangemode: spec.near ? "normal" : "tozero" },
    }, config);
  }

  const figures = data.figures.map(figure);
  const draw = () => Promise.all(figures.map(paint));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw().then(() => { root.dataset.drawn = "true"; });
})();

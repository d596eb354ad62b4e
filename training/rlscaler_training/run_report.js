"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("training").textContent);
  root.classList.add("scripted");

  // ---- look: the theme's own colours, read anew whenever it changes ----
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
  const faded = (rgb, alpha) => `rgba(${rgb.match(/[\d.]+/g).slice(0, 3).join(",")},${alpha})`;
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const config = { responsive: true, displayModeBar: false, showTips: false };

  function base() {
    const text = colour("--text"), muted = colour("--muted"), grid = colour("--grid");
    const axis = { gridcolor: grid, linecolor: grid, zeroline: false, automargin: true, fixedrange: true };
    return {
      text, muted, axis,
      layout: {
        autosize: true, margin: { l: 46, r: 12, t: 8, b: 38 }, showlegend: false,
        paper_bgcolor: colour("--card"), plot_bgcolor: colour("--card"),
        font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: muted },
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: text, size: 12 } },
      },
    };
  }

  function figure(parent, title, unit) {
    const box = document.createElement("figure");
    const caption = document.createElement("figcaption");
    const name = document.createElement("b");
    name.textContent = title;
    caption.append(name, unit ? `  ${unit}` : "");
    const draw = document.createElement("div");
    draw.className = "draw";
    draw.setAttribute("role", "img");
    draw.setAttribute("aria-label", unit ? `${title}, ${unit}` : title);
    box.append(caption, draw);
    parent.append(box);
    return draw;
  }

  // ---- learning curves ----
  const ends = data.curves.panels.flatMap((panel) => panel.lines.map((line) => line.x[line.x.length - 1]));
  const far = Math.max(...ends) > 8 * Math.min(...ends); // learners of so different lengths are read side by side
  const state = { share: far };
  const panels = data.curves.panels.map((panel) => ({ panel, at: figure(byId("curves"), panel.title, panel.unit) }));
  function curve({ panel, at }) {
    const look = base();
    const traces = panel.lines.flatMap((line) => {
      const rgb = colour(`--c${line.colour}`);
      const name = plain(line.label);
      const last = line.x[line.x.length - 1] || 1;
      const x = state.share ? line.x.map((at) => at / last) : line.x;
      const edge = { type: "scatter", mode: "lines", x, line: { width: 0, color: rgb }, hoverinfo: "skip" };
      return [
        ...(line.seeds > 1 ? [{ ...edge, y: line.low, name: `${name} low` }, { ...edge, y: line.high, name: `${name} high`, fill: "tonexty", fillcolor: faded(rgb, 0.18) }] : []),
        { type: "scatter", mode: line.x.length > 40 ? "lines" : "lines+markers", x, y: line.middle, name, line: { color: rgb, width: 2 }, marker: { size: 4, color: rgb }, hovertemplate: "%{y:.4~r}" },
        ...(line.rule === null ? [] : [{ type: "scatter", mode: "lines", x: [x[0], x[x.length - 1]], y: [line.rule, line.rule], name: `${name}: its rule`, line: { color: rgb, width: 1.5, dash: "dot" }, hovertemplate: "%{y:.4~r}" }]),
      ];
    });
    const layout = {
      ...look.layout, hovermode: "x unified",
      xaxis: { ...look.axis, title: { text: state.share ? "share of the training" : data.curves.unit, font: { size: 11 } }, tickformat: state.share ? ".0%" : "~s", nticks: 6 },
      yaxis: { ...look.axis, nticks: 5, tickformat: "~g" },
    };
    return Plotly.react(at, traces, layout, config);
  }

  const buttons = [...document.querySelectorAll("[data-share]")];
  function choose(share) {
    state.share = share;
    for (const button of buttons) button.setAttribute("aria-pressed", String((button.dataset.share === "1") === share));
    return Promise.all(panels.map(curve));
  }
  for (const button of buttons) button.addEventListener("click", () => choose(button.dataset.share === "1"));

  // ---- scores on each pattern ----
  function scores() {
    const at = byId("scores");
    if (!at) return null;
    const look = base();
    const values = data.scores.entrants.flatMap((e) => e.means.flatMap((mean, i) => [mean - e.below[i], mean + e.above[i]]));
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const symbols = { limit: "line-ew-open", reference: "square", policy: "circle" };
    const traces = data.scores.entrants.map((entrant) => ({
      type: "scatter", mode: "markers", x: data.scores.loads, y: entrant.means, name: plain(entrant.name),
      marker: { color: colour(`--c${entrant.colour}`), size: entrant.kind === "limit" ? 22 : 10, symbol: symbols[entrant.kind], line: { width: entrant.kind === "limit" ? 2 : 0, color: colour(`--c${entrant.colour}`) } },
      error_y: { type: "data", symmetric: false, array: entrant.above, arrayminus: entrant.below, color: colour(`--c${entrant.colour}`), thickness: 1.2, width: 3, visible: data.scores.draws > 1 },
      hovertemplate: "%{y:.3f}",
    }));
    const layout = {
      ...look.layout, hovermode: "x unified", showlegend: true, margin: { ...look.layout.margin, t: 12 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { color: look.text, size: 12 } }, scattermode: "group", scattergap: 0.45,
      xaxis: { ...look.axis, type: "category" }, yaxis: { ...look.axis, nticks: 6, range: [low - 0.08 * (high - low), high + 0.08 * (high - low)], title: { text: "score J; lower is better", font: { size: 11 } } },
    };
    return Plotly.react(at, traces, layout, config);
  }

  // ---- decision surfaces ----
  const maps = byId("surfaces") ? data.surfaces.maps.map((map) => ({ map, at: figure(byId("surfaces"), map.name, map.rule ? "the rule that is corrected" : "") })) : [];
  function surface({ map, at }) {
    const look = base();
    const s = data.surfaces;
    const layout = {
      ...look.layout, margin: { l: 50, r: 8, t: 6, b: 40 },
      xaxis: { ...look.axis, type: "category", title: { text: "demand now, replicas at full use", font: { size: 11 } }, tickangle: 0, nticks: 12 },
      yaxis: { ...look.axis, type: "category", title: { text: `load in the last ${s.minutes} minutes`, font: { size: 11 } } },
    };
    const trace = {
      type: "heatmap", x: s.levels, y: s.changes, z: map.headroom, customdata: map.replicas, zmin: s.low, zmax: s.high,
      colorscale: s.scale, xgap: 1, ygap: 1, colorbar: { thickness: 10, outlinewidth: 0, tickfont: { size: 10 }, nticks: 5 },
      hovertemplate: "demand %{x}, load %{y}: %{customdata:.1f} replicas, headroom %{z:.2f}<extra></extra>",
    };
    return Plotly.react(at, [trace], layout, config);
  }

  if (!byId("data")) byId("theme").remove(); // the script of the timeline turns the theme; without one the page follows the system

  const draw = () => Promise.all([...panels.map(curve), scores(), ...maps.map(surface)]);
  new MutationObserver(draw).observe(root, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  choose(far);
  draw().then(() => { root.dataset.drawn = "true"; });
})();

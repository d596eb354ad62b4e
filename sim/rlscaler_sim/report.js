"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  root.classList.add("scripted");

  // ---- data: runs of equal values become plain arrays, null where nothing is known ----
  const expand = ({ v, n }) => v.flatMap((value, i) => Array(n[i]).fill(value));
  let clock = data.start;
  const time = [clock, ...expand(data.steps).map((step) => (clock += step))];
  const last = time.length - 1;
  const load = expand(data.load);
  const demand = expand(data.demand);
  const contenders = data.contenders.map((c) => {
    const series = { ready: expand(c.ready), replicas: expand(c.replicas), late: expand(c.late), backlog: expand(c.backlog), cost: expand(c.cost) };
    series.capacity = series.ready.map((r) => (r === null || data.perReplica === null ? null : r * data.perReplica));
    return { ...c, series };
  });
  const YEAR = 365 * 86400e3;
  const calendar = data.start >= YEAR;
  const days = !calendar && time[last] > 86400e3;

  const PANELS = [
    { key: "capacity", title: "Load and ready capacity", unit: "requests/s; grey: load", weight: 3, area: load, areaName: "load", least: 1 },
    { key: "replicas", title: "Replicas asked for", unit: "replicas; grey: needed at full use", weight: 2.2, area: demand, areaName: "needed", least: 1 },
    { key: "late", title: "Late requests", unit: "% of the requests in a step", weight: 1.5, least: 1 },
    { key: "backlog", title: "Backlog", unit: "requests waiting", weight: 1.3, least: 5 },
    { key: "cost", title: "Cost so far", unit: "replica-hours billed / needed", weight: 1.7, line: "linear", fromData: true },
  ];
  PANELS.forEach((panel, i) => { panel.axis = i ? `y${i + 1}` : "y"; panel.layoutKey = i ? `yaxis${i + 1}` : "yaxis"; });

  // ---- state ----
  const peak = load.reduce((best, value, i) => (value !== null && (load[best] === null || value > load[best]) ? i : best), 0);
  const state = { shown: contenders.map((c) => c.shown), range: [time[0], time[last]], cursor: peak, printing: false };

  // ---- look ----
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
  const faded = (rgb, alpha) => `rgba(${rgb.match(/[\d.]+/g).slice(0, 3).join(",")},${alpha})`;
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  // ---- figure ----
  const gd = byId("plot");
  const narrow = () => gd.clientWidth < 560;
  const GAP = 0.048;

  function traces() {
    const grey = colour("--load");
    return PANELS.flatMap((panel) => [
      ...(panel.area ? [{
        type: "scatter", mode: "lines", x: time, y: panel.area, yaxis: panel.axis, name: panel.areaName, fill: "tozeroy",
        fillcolor: faded(grey, 0.28), line: { color: grey, width: 1 }, hovertemplate: "%{y:,.4~r}",
      }] : []),
      ...contenders.map((c, i) => ({
        type: "scatter", mode: "lines", x: time, y: c.series[panel.key], yaxis: panel.axis, name: plain(c.name), visible: state.shown[i],
        line: { color: colour(`--c${c.colour}`), width: (c.strong ? 2.1 : 1.4) * (narrow() ? 0.7 : 1), dash: c.dash, shape: panel.line || "hv" },
        hovertemplate: "%{y:,.4~r}", meta: i,
      })),
    ]);
  }

  function yRange(panel) {
    let low = Infinity, high = -Infinity;
    const settled = panel.fromData && time.length >= 50 ? time[0] + 0.02 * (time[last] - time[0]) : -Infinity;
    const rows = contenders.filter((_, i) => state.shown[i]).map((c) => c.series[panel.key]);
    if (panel.area) rows.push(panel.area);
    for (let i = 0; i <= last; i++) {
      if (time[i] < state.range[0] || time[i] > state.range[1] || (time[i] < settled && state.range[1] > settled)) continue;
      for (const row of rows) {
        const value = row[i];
        if (value === null) continue;
        if (value < low) low = value;
        if (value > high) high = value;
      }
    }
    if (low > high) return [0, panel.least || 1];
    if (!panel.fromData) return [0, Math.max(1.07 * high, panel.least)];
    const pad = Math.max(0.08 * (high - low), 0.02);
    return [low - pad, high + pad];
  }

  // beside the axis there is room for so many digits; larger numbers are written as 250k and 2M
  const tickformat = (range) => (range[1] >= (narrow() ? 1e5 : 1e6) ? "~s" : ",~r");

  function shapes() {
    const across = { xref: "x", yref: "paper", y0: 0, y1: 1 - GAP };
    return [
      ...data.gaps.map(([x0, x1]) => ({ ...across, type: "rect", x0, x1, layer: "below", line: { width: 0 }, fillcolor: faded(colour("--muted"), 0.16) })),
      ...(state.printing ? [] : [{ ...across, type: "line", x0: time[state.cursor], x1: time[state.cursor], line: { color: colour("--text"), width: 1, dash: "dot" } }]),
    ];
  }

  function layout() {
    const text = colour("--text"), muted = colour("--muted"), grid = colour("--grid");
    const total = PANELS.reduce((sum, p) => sum + p.weight, 0);
    const room = 1 - GAP * PANELS.length;
    let top = 1;
    const out = {
      height: state.printing ? 860 : narrow() ? 940 : 1040,
      ...(state.printing ? { width: 690 } : {}), autosize: !state.printing,
      margin: { l: narrow() ? 42 : 56, r: 14, t: 6, b: 44 },
      paper_bgcolor: colour("--card"), plot_bgcolor: colour("--card"),
      modebar: { bgcolor: "rgba(0,0,0,0)", color: muted, activecolor: text },
      font: { family: getComputedStyle(document.body).fontFamily, size: state.printing ? 10 : 12, color: muted },
      showlegend: false, hovermode: "x unified", dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
      hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: text, size: 12 } },
      annotations: [], shapes: shapes(),
      xaxis: {
        type: "date", anchor: PANELS[PANELS.length - 1].axis, range: state.range.slice(), gridcolor: grid, linecolor: grid, zeroline: false,
        showspikes: true, spikemode: "across", spikesnap: "cursor", spikethickness: 1, spikedash: "solid", spikecolor: muted,
        nticks: narrow() ? 5 : 10, hoverformat: calendar ? "%Y-%m-%d %H:%M:%S UTC" : days ? "day %-j %H:%M:%S" : "%H:%M:%S",
        ...(calendar ? {} : { tickformatstops: [
          { dtickrange: [null, 59999], value: days ? "%H:%M:%S\nday %-j" : "%H:%M:%S" },
          { dtickrange: [60000, null], value: days ? "%H:%M\nday %-j" : "%H:%M" },
        ] }),
      },
    };
    for (const panel of PANELS) {
      top -= GAP;
      const bottom = top - (room * panel.weight) / total;
      const range = yRange(panel);
      out[panel.layoutKey] = { domain: [Math.max(0, bottom), top], range, fixedrange: true, gridcolor: grid, zeroline: false, nticks: panel.weight > 2 ? 6 : 4, tickformat: tickformat(range), anchor: "x" };
      out.annotations.push({
        text: `<b>${panel.title}</b>  <span style="color:${muted}">${narrow() ? panel.unit.split(";")[0] : panel.unit}</span>`, showarrow: false,
        xref: "paper", x: 0, xanchor: "left", yref: "paper", y: top, yanchor: "bottom", yshift: 3, font: { color: text, size: state.printing ? 11 : 13 },
      });
      top = bottom;
    }
    return out;
  }

  const config = {
    responsive: true, displaylogo: false, doubleClick: false, showTips: false,
    modeBarButtons: [["toImage"]], toImageButtonOptions: { filename: `rlscaler-${document.querySelector(".brand span").textContent}`, scale: 2 },
  };
  let own = 0; // relayouts that this script makes itself must not be answered
  const draw = () => { own++; return Plotly.react(gd, traces(), layout(), config).then(() => { own--; }); };
  const relayout = (update) => { own++; return Plotly.relayout(gd, update).then(() => { own--; }); };

  function setRange(from, to) {
    const span = Math.max(to - from, 60000);
    const start = Math.min(Math.max(from, time[0]), Math.max(time[last] - span, time[0]));
    state.range = [start, Math.min(start + span, time[last])];
    markWindow();
    if (time[state.cursor] < state.range[0] || time[state.cursor] > state.range[1]) {
      state.cursor = nearest((state.range[0] + state.range[1]) / 2);
      showMoment();
    }
    const update = { "xaxis.range": state.range.slice(), shapes: shapes() };
    for (const panel of PANELS) {
      const range = yRange(panel);
      update[`${panel.layoutKey}.range`] = range;
      update[`${panel.layoutKey}.tickformat`] = tickformat(range);
    }
    return relayout(update);
  }

  function markWindow() {
    for (const button of document.querySelectorAll("[data-window]")) {
      const at = button.dataset.window === "all" ? [time[0], time[last]] : data.windows[button.dataset.window];
      button.hidden = !at;
      button.setAttribute("aria-pressed", String(Boolean(at) && at.every((t, i) => Math.abs(t - state.range[i]) < 1)));
    }
  }

  // ---- the values at one moment ----
  const two = (n) => String(n).padStart(2, "0");
  function momentText(ms) {
    const d = new Date(ms);
    const clock = `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}`;
    return calendar ? `${d.toISOString().slice(0, 10)} ${clock} UTC` : days ? `day ${Math.floor(ms / 86400e3) + 1} ${clock}` : clock;
  }
  const nearest = (ms) => {
    let low = 0, high = last;
    while (low < high) { const mid = (low + high) >> 1; if (time[mid] < ms) low = mid + 1; else high = mid; }
    return low > 0 && ms - time[low - 1] < time[low] - ms ? low - 1 : low;
  };
  const number = (value, digits) => (value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: digits }));
  function value(row, digits, unit = "") {
    const i = state.cursor;
    if (data.stretch === 1) return number(row[i], digits) + unit;
    const pair = [row[i - (i % 2)], row[i - (i % 2) + 1]].filter((v) => v !== null && v !== undefined);
    const [low, high] = [number(Math.min(...pair), digits), number(Math.max(...pair), digits)];
    return pair.length === 0 ? "–" : (low === high ? low : `${low} to ${high}`) + unit;
  }
  function showMoment() {
    const slider = byId("cursor");
    const unknown = data.gaps.some(([from, to]) => time[state.cursor] >= from && time[state.cursor] < to);
    const text = momentText(time[state.cursor]);
    slider.value = state.cursor;
    slider.setAttribute("aria-valuetext", text);
    byId("moment-time").textContent = `${text}: load ${value(load, load[peak] < 10 ? 3 : 0)} requests/s, ${value(demand, demand[peak] < 1 ? 6 : 1)} replicas needed${unknown ? " (unknown to the metrics, not scored)" : ""}`;
    byId("moment").tBodies[0].replaceChildren(...contenders.flatMap((c, i) => {
      if (!state.shown[i]) return [];
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = c.name;
      const cells = [value(c.series.ready, 0), value(c.series.replicas, 0), value(c.series.late, 2, " %"), value(c.series.backlog, 0), value(c.series.cost, 3)];
      row.append(head, ...cells.map((text) => Object.assign(document.createElement("td"), { textContent: text })));
      if (c.strong) row.className = "tested";
      return [row];
    }));
  }
  function setCursor(index) {
    state.cursor = Math.min(Math.max(index, 0), last);
    showMoment();
    return relayout({ shapes: shapes() });
  }

  // ---- controls ----
  function listenToPlot() {
    gd.on("plotly_relayout", (change) => {
      if (own || !("xaxis.range[0]" in change || "xaxis.range" in change)) return;
      const [from, to] = gd.layout.xaxis.range.map((t) => (typeof t === "number" ? t : Date.parse(`${t.replace(" ", "T")}Z`)));
      setRange(from, to);
    });
    gd.on("plotly_doubleclick", () => setRange(time[0], time[last]));
    gd.on("plotly_click", (event) => setCursor(event.points[0].pointIndex));
  }
  for (const box of document.querySelectorAll("[data-contender]")) {
    const i = Number(box.dataset.contender);
    box.checked = state.shown[i];
    box.addEventListener("change", () => { state.shown[i] = box.checked; showMoment(); draw(); });
  }
  for (const button of document.querySelectorAll("[data-window]")) {
    button.addEventListener("click", () => setRange(...(button.dataset.window === "all" ? [time[0], time[last]] : data.windows[button.dataset.window])));
  }
  byId("cursor").max = last;
  byId("cursor").addEventListener("input", (event) => setCursor(Number(event.target.value)));
  byId("decisions").addEventListener("click", (event) => {
    const button = event.target.closest("[data-time]");
    if (!button) return;
    const at = Number(button.dataset.time);
    byId("timeline-title").scrollIntoView();
    setRange(at - 20 * 60000, at + 20 * 60000).then(() => setCursor(nearest(at)));
  });

  // ---- theme ----
  const toggle = byId("theme");
  const remembered = (() => { try { return localStorage.getItem("rlscaler-theme"); } catch { return null; } })();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
  const showTheme = () => {
    toggle.setAttribute("aria-pressed", String(dark()));
  };
  toggle.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("rlscaler-theme", root.dataset.theme); } catch { /* a page from disk may have no storage */ }
    showTheme();
    draw();
  });
  system.addEventListener("change", () => { showTheme(); draw(); });

  // ---- decisions ----
  const rows = [...byId("decisions").tBodies[0].rows];
  const texts = rows.map((row) => row.textContent.toLowerCase());
  function filter() {
    const words = byId("find").value.toLowerCase().split(/\s+/).filter(Boolean);
    const reason = byId("reason").value, direction = byId("direction").value;
    root.classList.toggle("filtered", Boolean(words.length || reason || direction));
    let found = 0;
    rows.forEach((row, i) => {
      const keep = words.every((word) => texts[i].includes(word))
        && (!reason || row.dataset.reasons.split(" ").includes(reason)) && (!direction || row.dataset.direction === direction);
      row.hidden = !keep;
      found += keep;
    });
    byId("found").textContent = `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")} shown`;
  }
  for (const id of ["find", "reason", "direction"]) byId(id).addEventListener("input", filter);
  document.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());

  // ---- print: light, at the width of the paper ----
  let before;
  addEventListener("beforeprint", () => {
    before = root.dataset.theme;
    root.dataset.theme = "light";
    state.printing = true;
    draw();
  });
  addEventListener("afterprint", () => {
    if (before) root.dataset.theme = before; else delete root.dataset.theme;
    state.printing = false;
    draw();
  });

  showTheme();
  markWindow();
  showMoment();
  filter();
  draw().then(listenToPlot).then(() => { root.dataset.ready = "true"; });
})();

"use strict";
// Draws the charts of a report from the JSON beside it. Everything shown is set as text nodes; nothing is parsed as markup.
(() => {
  const GROUPS = JSON.parse(document.getElementById("data").textContent);
  const COLOURS = 8;

  // Building blocks

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  }

  function draw(parent, tag, attributes, text) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }

  const colour = (method) => `c${method.colour % COLOURS}${method.colour >= COLOURS ? " dashed" : ""}`;
  const known = (value) => value !== null && value !== undefined;
  const scale = (from, to) => (v) => to[0] + ((v - from[0]) / (from[1] - from[0] || 1)) * (to[1] - to[0]);
  const minus = (text) => text.replace("-", "\u2212");

  function number(v) {
    const size = Math.abs(v);
    if (size === 0) return "0";
    if (size >= 1e7 || size < 1e-3) return minus(v.toExponential(2).replace("e+", "e"));
    const digits = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
    return minus(v.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }));
  }

  // Tick labels: as short as the distance between ticks allows.
  function tickText(step) {
    return (v) => {
      const size = Math.abs(v);
      if (size >= 1e12 || (size > 0 && size < 1e-4)) return minus(v.toExponential(1).replace("e+", "e"));
      for (const [unit, suffix] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
        if (size >= unit && step >= unit / 100) return minus(`${+(v / unit).toFixed(2)}${suffix}`);
      }
      return minus(String(+v.toFixed(Math.max(0, 1 - Math.floor(Math.log10(step))))));
    };
  }

  const percent = (share) => `${Math.round(100 * share)}%`;

  function timeText(seconds) {
    if (seconds < 120) return `${+seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
    return seconds < 7200 ? `${+(seconds / 60).toFixed(1)} min` : `${+(seconds / 3600).toFixed(1)} h`;
  }

  function ticks(low, high, count, steps = [1, 2, 5, 10]) {
    const rough = (high - low) / count || 1;
    const base = 10 ** Math.floor(Math.log10(rough));
    const step = base * steps.find((s) => s * base >= rough * 0.999);
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i <= high / step + 1e-9; i++) found.push(i * step);
    return { found, step };
  }

  function timeTicks(low, high, count) {
    const nice = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200, 86400];
    const step = nice.find((s) => s >= (high - low) / count);
    if (step === undefined || high - low < 5) return ticks(low, high, count);
    const found = [];
    for (let i = Math.ceil(low / step); i <= high / step; i++) found.push(i * step);
    return { found, step };
  }

  function range(values, share = 0) {
    let low = Infinity;
    let high = -Infinity;
    for (const v of values) {
      if (!known(v)) continue;
      if (v < low) low = v;
      if (v > high) high = v;
    }
    if (low > high) return [0, 1];
    const space = (high - low) * share || (high === low ? Math.abs(high) * 0.1 || 1 : 0);
    return [low - space, high + space];
  }

  function path(xs, ys, x, y) {
    let text = "";
    let open = false;
    xs.forEach((value, i) => {
      if (known(ys[i])) text += `${open ? "L" : "M"}${x(value).toFixed(1)} ${y(ys[i]).toFixed(1)}`;
      open = known(ys[i]);
    });
    return text;
  }

  function bandPath(band, x, y) {
    const at = band.x.map((_, i) => i).filter((i) => known(band.low[i]) && known(band.high[i]));
    if (at.length < 2) return "";
    const side = (ys) => (i) => `${x(band.x[i]).toFixed(1)} ${y(ys[i]).toFixed(1)}`;
    return `M${at.map(side(band.high)).join("L")}L${at.reverse().map(side(band.low)).join("L")}Z`;
  }

  // A band as a staircase: each value holds until the next x.
  function stairs(band) {
    const twice = (list) => list.flatMap((v) => [v, v]);
    const held = (list) => twice(list).slice(0, -1);
    return { x: twice(band.x).slice(1), y: held(band.y), low: held(band.low), high: held(band.high) };
  }

  // A frame with axes; returns where to draw and the two scales.
  function frame(host, { height, xs, ys, xTicks, xText, yText, xTitle, label, right = 12 }) {
    host.replaceChildren();
    const width = Math.max(240, host.clientWidth);
    const yTicks = ticks(ys[0], ys[1], height > 250 ? 6 : 4);
    const level = yText || tickText(yTicks.step);
    const left = 14 + 7 * Math.max(...yTicks.found.map((v) => level(v).length), 1);
    const box = { left, right: width - right, top: 10, bottom: height - 42, width, height };
    const svg = draw(host, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": label });
    const x = scale(xs, [box.left, box.right]);
    const y = scale(ys, [box.bottom, box.top]);
    for (const v of yTicks.found) {
      draw(svg, "line", { class: "gridline", x1: box.left, x2: box.right, y1: y(v), y2: y(v) });
      draw(svg, "text", { class: "end", x: box.left - 8, y: y(v) + 4 }, level(v));
    }
    const across = xTicks(xs[0], xs[1], Math.max(3, Math.floor((box.right - box.left) / 80)));
    const text = xText || tickText(across.step);
    draw(svg, "line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom });
    for (const v of across.found) {
      draw(svg, "line", { class: "axis", x1: x(v), x2: x(v), y1: box.bottom, y2: box.bottom + 4 });
      draw(svg, "text", { class: "middle", x: x(v), y: box.bottom + 18 }, text(v));
    }
    draw(svg, "text", { class: "middle", x: (box.left + box.right) / 2, y: box.bottom + 36 }, xTitle);
    return { svg, x, y, box };
  }

  // Method names at the right ends of their lines, pushed apart where they would overlap.
  function endLabels(svg, ends, box) {
    ends.sort((a, b) => a.y - b.y);
    let last = -Infinity;
    for (const end of ends) last = end.at = Math.max(end.y + 4, last + 14);
    let limit = box.bottom + 4;
    for (const end of ends.slice().reverse()) limit = (end.at = Math.min(end.at, limit)) - 14;
    for (const { method, at } of ends) draw(svg, "text", { class: `label ${colour(method)}`, x: box.right + 8, y: at }, method.label);
  }

  const nearest = (xs, v) => xs.reduce((best, x, i) => (Math.abs(x - v) < Math.abs(xs[best] - v) ? i : best), 0);

  // A vertical line that follows the pointer (or the arrow keys) with the values of every line there.
  function cursor(host, { svg, x, y, box }, lines, title, value) {
    const places = [...new Set(lines.flatMap((line) => line.band.x))].sort((a, b) => a - b);
    if (!places.length) return;
    const mark = draw(svg, "g", {});
    const tip = make("div", { class: "tip", hidden: "" });
    host.append(tip);
    let at = -1;

    function show(index) {
      at = Math.max(0, Math.min(places.length - 1, index));
      const place = places[at];
      mark.replaceChildren();
      draw(mark, "line", { class: "cursor", x1: x(place), x2: x(place), y1: box.top, y2: box.bottom });
      tip.replaceChildren(make("b", {}, title(place)));
      const rows = [];
      for (const { method, band } of lines) {
        const i = nearest(band.x, place);
        const reach = band.x.length > 1 ? (band.x[band.x.length - 1] - band.x[0]) / (band.x.length - 1) : Infinity;
        if (!known(band.y[i]) || Math.abs(band.x[i] - place) > reach) continue;
        draw(mark, "circle", { class: `point ${colour(method)}`, cx: x(band.x[i]), cy: y(band.y[i]), r: 4.5 });
        const interval = known(band.low[i]) ? ` [${value(band.low[i])}, ${value(band.high[i])}]` : "";
        rows.push([band.y[i], make("div", {}, make("i", { class: `dot ${colour(method)}` }), make("span", {}, method.label),
          document.createTextNode(value(band.y[i]) + interval))]);
      }
      tip.append(...rows.sort((a, b) => b[0] - a[0]).map((row) => row[1]));
      tip.hidden = false;
      const ratio = host.clientWidth / box.width;
      const side = x(place) * ratio;
      const flip = side > host.clientWidth / 2;
      tip.style.left = `${Math.max(0, Math.min(host.clientWidth - tip.offsetWidth, flip ? side - tip.offsetWidth - 14 : side + 14))}px`;
      tip.style.top = `${box.top + 4}px`;
    }
    function hide() {
      tip.hidden = true;
      mark.replaceChildren();
    }
    const hit = draw(svg, "rect", { x: box.left, y: box.top, width: Math.max(0, box.right - box.left),
      height: box.bottom - box.top, fill: "transparent", tabindex: "0", "aria-label": "values along the lines; use the arrow keys" });
    const follow = (event) => {
      const area = svg.getBoundingClientRect();
      const px = ((event.clientX - area.left) / area.width) * box.width;
      let best = 0;
      places.forEach((place, i) => { if (Math.abs(x(place) - px) < Math.abs(x(places[best]) - px)) best = i; });
      show(best);
    };
    hit.addEventListener("pointermove", follow);
    hit.addEventListener("pointerdown", follow);
    hit.addEventListener("pointerleave", hide);
    hit.addEventListener("blur", hide);
    hit.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (move) { show(at + move); event.preventDefault(); }
    });
  }

  // The charts of one group

  function start(section) {
    const group = GROUPS[Number(section.dataset.index)];
    const state = { hidden: new Set(), metric: 0, axis: "clock", seeds: false };
    const scoreTitle = group.metrics.length ? "score" : "scaled score";
    const plots = {};
    for (const host of section.querySelectorAll("[data-plot]")) plots[host.dataset.plot] = host;
    const visible = (list) => list.map((item, i) => ({ item, method: group.methods[i], i }))
      .filter(({ item, i }) => item && !state.hidden.has(i));

    function curves(host) {
      const metric = group.metrics[state.metric];
      if (!metric) return host.replaceChildren("Nothing was logged yet.");
      const lines = visible(metric.methods).map(({ item, method }) => ({
        method, band: item[state.axis], seeds: item.seeds.map(({ seed, at, y }) => ({ seed, x: group.places[at][state.axis], y })),
      }));
      const xs = range(lines.flatMap((l) => [...l.band.x, ...(state.seeds ? l.seeds.flatMap((s) => s.x) : [])]));
      const ys = range(lines.flatMap(({ band, seeds }) =>
        [...band.y, ...band.low, ...band.high, ...(state.seeds ? seeds.flatMap((s) => s.y) : [])]), 0.05);
      const longest = Math.max(0, ...lines.map((l) => l.method.label.length));
      const direct = host.clientWidth > 640 && longest <= 20;
      const time = state.axis === "seconds";
      const axes = frame(host, {
        height: host.clientWidth > 560 ? 380 : 280, xs: [Math.min(0, xs[0]), xs[1]], ys,
        xTicks: time ? timeTicks : ticks, xText: time ? timeText : null, right: direct ? 22 + 7.2 * longest : 14,
        xTitle: time ? "wall-clock time" : group.unit === "steps" ? "environment steps" : "updates",
        label: `${metric.name}: mean over seeds with interval`,
      });
      for (const { method, band } of lines) draw(axes.svg, "path", { class: `band ${colour(method)}`, d: bandPath(band, axes.x, axes.y) });
      for (const { method, seeds } of state.seeds ? lines : []) {
        for (const seed of seeds) {
          const run = draw(axes.svg, "path", { class: `run ${colour(method)}`, d: path(seed.x, seed.y, axes.x, axes.y) });
          draw(run, "title", {}, `${method.label}, seed ${seed.seed}`);
        }
      }
      const ends = [];
      for (const { method, band } of lines) {
        draw(axes.svg, "path", { class: `line ${colour(method)}`, d: path(band.x, band.y, axes.x, axes.y) });
        if (band.x.length === 1 && known(band.y[0])) {
          draw(axes.svg, "circle", { class: `point ${colour(method)}`, cx: axes.x(band.x[0]), cy: axes.y(band.y[0]), r: 4 });
        }
        const last = band.y[band.y.length - 1];
        if (known(last)) ends.push({ method, y: axes.y(last) });
      }
      if (direct) endLabels(axes.svg, ends, axes.box);
      cursor(host, axes, lines, (v) => (time ? timeText(v) : `${Math.round(v).toLocaleString("en")} ${group.unit}`), number);
    }

    function scores(host) {
      const rows = visible(group.scores).filter(({ item }) => known(item.value));
      const row = Math.max(46, Math.min(72, 190 / Math.max(1, rows.length)));
      const xs = range(rows.flatMap(({ item }) => [item.low, item.high, item.value, ...item.runs]), 0.04);
      const height = Math.max(1, rows.length) * row + 52;
      host.replaceChildren();
      const width = Math.max(240, host.clientWidth);
      const svg = draw(host, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": "scores of every seed" });
      const x = scale(xs, [10, width - 18]);
      const bottom = height - 42;
      const { found, step } = ticks(xs[0], xs[1], Math.max(3, Math.floor(width / 80)));
      const text = tickText(step);
      for (const v of found) {
        draw(svg, "line", { class: "gridline", x1: x(v), x2: x(v), y1: 4, y2: bottom });
        draw(svg, "text", { class: "middle", x: x(v), y: bottom + 18 }, text(v));
      }
      draw(svg, "line", { class: "axis", x1: 10, x2: width - 18, y1: bottom, y2: bottom });
      draw(svg, "text", { class: "middle", x: width / 2, y: bottom + 36 }, scoreTitle);
      rows.forEach(({ item, method }, i) => {
        const y = (i + 0.5) * row + 9;
        draw(svg, "text", { class: "strong", x: 10, y: y - 13 }, method.label);
        if (known(item.low)) draw(svg, "line", { class: `range ${colour(method)}`, x1: x(item.low), x2: x(item.high), y1: y, y2: y });
        for (const v of item.runs) draw(svg, "circle", { class: `seed ${colour(method)}`, cx: x(v), cy: y, r: 3.5 });
        const mark = draw(svg, "circle", { class: `point ${colour(method)}`, cx: x(item.value), cy: y, r: 6 });
        draw(mark, "title", {}, `IQM ${number(item.value)}`);
      });
    }

    function profile(host) {
      const lines = visible(group.profile).map(({ item, method }) => ({ method, band: item }));
      const xs = range(lines.flatMap((l) => l.band.x));
      const axes = frame(host, {
        height: Math.max(240, group.scores.length * 46 + 52), xs, ys: [0, 1], xTicks: ticks, right: 18,
        xTitle: scoreTitle, yText: percent, label: "share of runs above each score",
      });
      for (const { method, band } of lines) {
        const steps = stairs(band);
        draw(axes.svg, "path", { class: `band ${colour(method)}`, d: bandPath(steps, axes.x, axes.y) });
        draw(axes.svg, "path", { class: `line ${colour(method)}`, d: path(steps.x, steps.y, axes.x, axes.y) });
      }
      cursor(host, axes, lines, (v) => `above ${number(v)}`, percent);
    }

    // What answers were worth by how far the policy had gone, a line for every seed in the order of its rounds.
    const worth = (name) => (host) => {
      const lines = visible(group.ways).flatMap(({ item, method }) => item.map((way) => ({ method, ...way })));
      const axes = frame(host, {
        height: 280, xs: range(lines.flatMap((l) => l.kl)), ys: range(lines.flatMap((l) => l[name]), 0.05), xTicks: ticks,
        xTitle: "divergence from the reference, nats an answer", label: `${name} by divergence from the reference`,
      });
      for (const { method, seed, kl, ...way } of lines) {
        const line = draw(axes.svg, "path", { class: `line ${colour(method)}`, d: path(kl, way[name], axes.x, axes.y) });
        draw(line, "title", {}, `${method.label}, seed ${seed}`);
        const last = kl.length - 1;
        if (known(kl[last]) && known(way[name][last])) {
          draw(axes.svg, "circle", { class: `point ${colour(method)}`, cx: axes.x(kl[last]), cy: axes.y(way[name][last]), r: 4 });
        }
      }
    };

    // How much likelier both sides of pairs are than under the reference.
    function likelihood(host) {
      const sides = [["chosen", ""], ["rejected", " dashed"]];
      const lines = sides.flatMap(([side, dash]) => {
        const metric = group.metrics.find(({ name }) => name === `preference/${side}`);
        return visible(metric ? metric.methods : []).map(({ item, method }) => (
          { method: { ...method, label: `${method.label}, ${side}` }, dash, band: item[state.axis] }));
      });
      const time = state.axis === "seconds";
      const xs = range(lines.flatMap((l) => l.band.x));
      const axes = frame(host, {
        height: 300, xs: [Math.min(0, xs[0]), xs[1]], ys: range([0, ...lines.flatMap((l) => l.band.y)], 0.05),
        xTicks: time ? timeTicks : ticks, xText: time ? timeText : null,
        xTitle: time ? "wall-clock time" : group.unit === "steps" ? "environment steps" : "updates",
        label: "log-ratio of chosen and rejected answers to the reference, in nats",
      });
      draw(axes.svg, "line", { class: "axis", x1: axes.box.left, x2: axes.box.right, y1: axes.y(0), y2: axes.y(0) });
      for (const { method, dash, band } of lines) {
        draw(axes.svg, "path", { class: `band ${colour(method)}`, d: bandPath(band, axes.x, axes.y) });
        draw(axes.svg, "path", { class: `line ${colour(method)}${dash}`, d: path(band.x, band.y, axes.x, axes.y) });
      }
      cursor(host, axes, lines, (v) => (time ? timeText(v) : `${Math.round(v).toLocaleString("en")} ${group.unit}`), number);
    }

    const charts = { curves, scores, profile, gold: worth("gold"), proxy: worth("proxy"), likelihood };
    const paint = () => Object.entries(plots).forEach(([name, host]) => charts[name](host));

    function legend() {
      section.querySelector(".legend").replaceChildren(...group.methods.map((method, i) =>
        make("button", {
          type: "button", "aria-pressed": "true", title: "show or hide",
          onclick: (event) => {
            const shown = state.hidden.delete(i) || !state.hidden.add(i);
            event.currentTarget.setAttribute("aria-pressed", String(shown));
            paint();
          },
        }, make("i", { class: `dot ${colour(method)}` }), make("bdi", {}, method.label))));
    }

    function toolbar(host) {
      const choose = make("select", { "aria-label": "quantity", onchange: () => { state.metric = Number(choose.value); paint(); } },
        ...group.metrics.map((metric, i) => make("option", { value: i }, metric.name)));
      const axes = [["clock", group.unit === "steps" ? "Steps" : "Updates"], ["seconds", "Wall-clock time"]].map(([axis, text]) =>
        make("button", {
          type: "button", "aria-pressed": String(axis === state.axis), "data-axis": axis,
          onclick: () => {
            state.axis = axis;
            axes.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.axis === axis)));
            paint();
          },
        }, text));
      const seeds = make("input", { type: "checkbox", onchange: () => { state.seeds = seeds.checked; paint(); } });
      host.replaceChildren(choose, make("span", { class: "switch" }, ...axes), make("label", {}, seeds, "Every seed"));
    }

    legend();
    const bar = section.querySelector(".toolbar");
    if (bar) toolbar(bar);
    paint();
    let width = section.clientWidth;
    new ResizeObserver(() => {
      if (section.clientWidth !== width) { width = section.clientWidth; paint(); }
    }).observe(section);
  }

  document.querySelectorAll("section.task").forEach(start);
  document.documentElement.dataset.ready = "true";
})();

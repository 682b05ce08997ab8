// Charts are drawn when they come near the screen; Plotly is unpacked for the first of them. Nothing is fetched.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("charts").textContent);
  const hidden = new Set();
  const redraws = new Map(); // element -> function that draws its chart again
  const escaped = text => String(text).replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const short = value => value === null ? "–" : Number(value).toPrecision(4);

  let library;
  const plotly = () => library ??= (async () => {
    const bytes = Uint8Array.from(atob(document.getElementById("plotly").textContent.trim()), c => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const tag = document.createElement("script");
    tag.textContent = await new Response(stream).text();
    document.head.append(tag);
    return window.Plotly;
  })();

  const axis = (title, more = {}) => ({ title: { text: escaped(title), font: { size: 12 } }, gridcolor: colour("--line"), zerolinecolor: colour("--line"), ...more });
  const layout = more => ({
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: colour("--ink"), size: 12 },
    margin: { l: 64, r: 12, t: 12, b: 48 }, showlegend: false, hovermode: "x unified",
    hoverlabel: { bgcolor: colour("--card"), font: { color: colour("--ink") } }, ...more,
  });
  const put = (place, traces, chartLayout) =>
    window.Plotly.react(place, traces, chartLayout, { responsive: true, displaylogo: false, displayModeBar: false });
  const rgba = (hex, alpha) => `rgba(${[1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)).join(",")},${alpha})`;
  const option = (select, text, value) => select.add(new Option(text, value));
  const label = (place, text, control) => {
    const tag = document.createElement("label");
    tag.append(text + " ", control);
    place.append(tag);
    return control;
  };

  function curves(place, controls, chart) {
    const what = label(controls, "What", document.createElement("select"));
    const over = label(controls, "over", document.createElement("select"));
    [...new Set(chart.views.map(view => view.label))].forEach(name => option(what, name, name));
    const fill = () => {
      const before = over.value;
      over.replaceChildren();
      chart.views.filter(view => view.label === what.value).forEach(view => option(over, view.axis, view.axis));
      if ([...over.options].some(choice => choice.value === before)) over.value = before;
    };
    const draw = () => {
      const view = chart.views.find(candidate => candidate.label === what.value && candidate.axis === over.value);
      const traces = [];
      for (const [arm, curve] of Object.entries(view.arms)) {
        if (hidden.has(arm)) continue;
        const style = chart.styles[arm];
        traces.push({ x: [...curve.x, ...[...curve.x].reverse()], y: [...curve.high, ...[...curve.low].reverse()], fill: "toself", mode: "lines",
          line: { width: 0 }, fillcolor: rgba(style.colour, 0.15), hoverinfo: "skip", meta: arm });
        traces.push({ x: curve.x, y: curve.mean, mode: "lines+markers", name: escaped(arm), meta: arm, marker: { size: 4 },
          line: { color: style.colour, dash: style.dash, width: 2 }, customdata: curve.low.map((low, i) => [short(low), short(curve.high[i])]),
          hovertemplate: "%{y:.5g} [%{customdata[0]}, %{customdata[1]}]" });
      }
      const means = Object.entries(view.arms).filter(([arm]) => !hidden.has(arm)).flatMap(([, c]) => c.mean.slice(Math.floor(c.mean.length / 8))).filter(v => v !== null);
      const [low, high] = [Math.min(...means), Math.max(...means)];
      const room = 0.15 * (high - low) || 0.1 * Math.abs(high) || 1;
      const y = view.log ? { type: "log" } : means.length ? { range: [low - room, high + room] } : {};
      return put(place, traces, layout({ xaxis: axis(view.axis), yaxis: axis(view.label, y) }));
    };
    fill();
    what.onchange = () => { fill(); draw(); };
    over.onchange = draw;
    return draw;
  }

  function spectra(place, controls, chart) {
    const steps = [...new Set(Object.values(chart.arms).flatMap(spectrum => spectrum.steps))].sort((a, b) => a - b);
    const slider = Object.assign(document.createElement("input"), { type: "range", min: 0, max: steps.length - 1, value: steps.length - 1 });
    label(controls, "Updates", slider);
    const shown = controls.appendChild(document.createElement("output"));
    const middles = chart.places.slice(1).map((place, i) => (place + chart.places[i]) / 2);
    const draw = () => {
      const step = steps[slider.value];
      shown.textContent = String(step);
      slider.setAttribute("aria-valuetext", `after ${step} updates`);
      const traces = Object.entries(chart.arms).filter(([arm]) => !hidden.has(arm)).map(([arm, spectrum]) => {
        const at = spectrum.steps.findLastIndex(s => s <= step);
        return { x: middles, y: at < 0 ? [] : spectrum.shares[at].map(share => 100 * share), mode: "lines", line: { shape: "hvh", color: chart.styles[arm].colour, dash: chart.styles[arm].dash, width: 1.8 },
          name: escaped(`${arm} (${spectrum.run}${at < 0 ? "" : `, update ${spectrum.steps[at]}`})`), meta: arm, customdata: middles.map((_, i) => [short(chart.bounds[i]), short(chart.bounds[i + 1])]),
          hovertemplate: "%{y:.3g} % between %{customdata[0]} and %{customdata[1]}" };
      });
      const most = 100 * Math.max(...Object.values(chart.arms).flatMap(spectrum => spectrum.shares.flat()));
      const ticks = { tickvals: chart.ticks.map(t => t[0]), ticktext: chart.ticks.map(t => t[1]) };
      return put(place, traces, layout({ xaxis: axis("eigenvalue (loss per squared weight), logarithmic on both sides of 0", ticks),
        yaxis: axis("share of the eigenvalues (%)", { type: "log", range: [-1.5, Math.log10(1.2 * most)] }), showlegend: true, legend: { orientation: "h", y: -0.22 }, margin: { l: 64, r: 12, t: 12, b: 110 } }));
    };
    slider.oninput = draw;
    return draw;
  }

  function planes(place, controls, chart) {
    const which = label(controls, "Plane", document.createElement("select"));
    chart.forEach((plane, i) => option(which, `${plane.arm}: ${plane.name}, update ${plane.step}`, i));
    const logarithmic = label(controls, "logarithmic height", Object.assign(document.createElement("input"), { type: "checkbox", checked: true }));
    const draw = () => {
      const plane = chart[which.value];
      const height = value => value === null ? null : logarithmic.checked ? Math.log10(value - plane.low + plane.depth) : value;
      const path = plane.path.map(([x, y, z]) => [x, y, height(z)]);
      const traces = [
        { type: "surface", x: plane.x, y: plane.y, z: plane.losses.map(row => row.map(height)), text: plane.losses.map(row => row.map(short)), colorscale: "Viridis", showscale: false, opacity: 0.95,
          hovertemplate: "loss %{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>", contours: { z: { show: true, color: "rgba(255,255,255,.5)", width: 1 } } },
        { type: "scatter3d", mode: "lines+markers", x: path.map(p => p[0]), y: path.map(p => p[1]), z: path.map(p => p[2]), line: { color: "#D55E00", width: 6 }, marker: { size: 2.5, color: "#D55E00" }, text: plane.path.map(p => short(p[2])),
          hovertemplate: "path, loss %{text}<extra></extra>" },
      ];
      return put(place, traces, layout({ margin: { l: 0, r: 0, t: 0, b: 0 }, hovermode: "closest", uirevision: "kept",
        scene: { xaxis: axis(plane.axes[0]), yaxis: axis(plane.axes[1]), zaxis: axis(logarithmic.checked ? "log10 of the loss above the lowest" : "loss (nats)"), aspectmode: "cube" } }));
    };
    which.onchange = draw;
    logarithmic.onchange = draw;
    return draw;
  }

  const kinds = { curves, spectra, planes };
  const again = () => redraws.forEach(draw => draw());
  const seen = new IntersectionObserver(entries => entries.filter(entry => entry.isIntersecting).forEach(async ({ target }) => {
    seen.unobserve(target);
    const place = target.querySelector(".plot");
    if (!await plotly().catch(() => null)) {
      place.textContent = "This browser cannot unpack the script that draws here. The figures of this section show the same records.";
      return;
    }
    const waiting = place.querySelector("p");
    target.classList.add("open"); // its full height, which the library measures; the words stay until the chart is there
    const draw = kinds[target.dataset.chart](place, target.querySelector(".controls"), data[target.dataset.chart]);
    redraws.set(place, draw);
    await draw();
    waiting?.remove();
    target.dataset.drawn = "yes";
  }), { rootMargin: "300px" });
  document.querySelectorAll("[data-chart]").forEach(place => seen.observe(place));

  document.querySelectorAll("#arms input").forEach(box => box.onchange = () => {
    hidden[box.checked ? "delete" : "add"](box.value);
    document.querySelectorAll("tr[data-arm]").forEach(row => { row.hidden = hidden.has(row.dataset.arm); });
    again();
  });
  const themes = document.getElementById("theme");
  themes.onchange = () => {
    document.documentElement.dataset.theme = themes.value;
    again();
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
})();

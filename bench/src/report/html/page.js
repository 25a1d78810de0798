"use strict";
// Shows the values of all lines under the pointer, or where the arrow keys lead.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  // Beyond this distance across, a line is said to have no value there.
  const REACH = 12;

  // A number as people write it, to four digits.
  const number = (value) => {
    const size = Math.abs(value);
    if (size === 0) return "0";
    if (size < 1e-4 || size >= 1e15) return value.toExponential(3);
    for (const [unit, suffix] of [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
      if (size >= unit) return Number((value / (suffix === " k" ? 1e3 : unit)).toPrecision(4)) + suffix;
    }
    return String(Number(value.toPrecision(4)));
  };

  const measure = (axis, value) => {
    // One digit more than there are nines.
    if (axis.scale === "percentile") {
      const decimals = Math.max(0, Math.ceil(-Math.log10(1 - value)) - 1);
      return Number((value * 100).toFixed(Math.min(decimals, 14))) + " %";
    }
    return number(value) + (axis.unit ? " " + axis.unit : "");
  };

  const add = (parent, name, text) => {
    const child = parent.appendChild(document.createElement(name));
    if (text !== undefined) child.textContent = text;
    return child;
  };

  // Of each line its point nearest to x across, where it has one within reach.
  const nearest = (plot, x) => plot.series.map((series) => {
    let best = null;
    for (const point of series.points) {
      if (best === null || Math.abs(point[0] - x) < Math.abs(best[0] - x)) best = point;
    }
    return best;
  });

  const attach = (figure) => {
    const plot = JSON.parse(figure.dataset.plot);
    const canvas = figure.querySelector(".canvas");
    const svg = canvas.querySelector("svg");
    const places = new Map();
    for (const series of plot.series) for (const point of series.points) places.set(point[0], point[2]);
    const stops = [...places.keys()].sort((a, b) => a - b);
    const cursor = svg.appendChild(document.createElementNS(SVG, "g"));
    cursor.setAttribute("class", "cursor");
    const tip = add(figure, "div");
    tip.className = "tip";
    tip.hidden = true;
    tip.setAttribute("role", "status");
    let stop = -1;

    const hide = () => {
      tip.hidden = true;
      cursor.replaceChildren();
      stop = -1;
    };

    const draw = (name, attributes, parent) => {
      const shape = parent.appendChild(document.createElementNS(SVG, name));
      for (const key in attributes) shape.setAttribute(key, attributes[key]);
    };

    const fill = (x, points) => {
      tip.replaceChildren();
      const table = add(tip, "table");
      add(table, "caption", plot.x.label + " " + measure(plot.x, places.get(x)));
      points.forEach((point, index) => {
        const row = add(table, "tr");
        row.className = "s" + plot.series[index].color;
        const isNear = point !== null && Math.abs(point[0] - x) <= REACH;
        add(row, "th", plot.series[index].name).scope = "row";
        add(row, "td", isNear ? measure(plot.y, point[3]) : "-");
        if (!isNear) return;
        const group = cursor.appendChild(document.createElementNS(SVG, "g"));
        group.setAttribute("class", row.className);
        draw("circle", { cx: point[0], cy: point[1], r: 4 }, group);
      });
    };

    const show = (index) => {
      stop = Math.max(0, Math.min(stops.length - 1, index));
      const x = stops[stop];
      cursor.replaceChildren();
      draw("path", { d: `M${x} ${plot.top}V${plot.bottom}` }, cursor);
      fill(x, nearest(plot, x));
      tip.hidden = false;
      // Beside the line, on the side with more room, and inside of the figure.
      const box = svg.getBoundingClientRect();
      const outer = figure.getBoundingClientRect();
      const scale = box.width / svg.viewBox.baseVal.width;
      const at = box.left - outer.left + x * scale;
      const left = at > outer.width / 2 ? at - tip.offsetWidth - 14 : at + 14;
      tip.style.left = Math.max(0, Math.min(outer.width - tip.offsetWidth, left)) + "px";
      tip.style.top = box.top - outer.top + (plot.top + 10) * scale + "px";
    };

    const nearestStop = (x) => {
      let best = 0;
      stops.forEach((it, index) => {
        if (Math.abs(it - x) < Math.abs(stops[best] - x)) best = index;
      });
      return best;
    };

    const follow = (event) => {
      const box = svg.getBoundingClientRect();
      show(nearestStop((event.clientX - box.left) * svg.viewBox.baseVal.width / box.width));
    };

    // On a narrow screen, the line that a key leads to may be outside of what is shown.
    const reveal = () => {
      if (stop < 0) return;
      const at = stops[stop] * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      const isSeen = at > canvas.scrollLeft && at < canvas.scrollLeft + canvas.clientWidth;
      if (isSeen) return;
      canvas.scrollLeft = at - canvas.clientWidth / 2;
      show(stop);
    };

    const keys = {
      ArrowLeft: () => show(stop < 0 ? stops.length - 1 : stop - 1),
      ArrowRight: () => show(stop + 1),
      Home: () => show(0),
      End: () => show(stops.length - 1),
      Escape: hide,
    };

    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("pointerdown", follow);
    canvas.addEventListener("pointerleave", hide);
    canvas.addEventListener("blur", hide);
    canvas.addEventListener("keydown", (event) => {
      if (!(event.key in keys) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      keys[event.key]();
      reveal();
    });
  };

  document.querySelectorAll("figure[data-plot]").forEach(attach);
  document.documentElement.dataset.ready = "";
})();

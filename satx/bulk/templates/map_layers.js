// The layers of the map and their colors, and the lines of longitude and latitude.
const THEMES = {
  light: {
    outside: "#e4e8ec", scored: "#fbfbf9", unscored: "#e9dfcd", density: ["#d5ebe9", "#8fcac4", "#3f9aa0", "#2f6d8c"], line: "rgba(70, 85, 105, .16)", label: "#5b6673",
    halo: "rgba(251, 251, 249, .85)", ramp: ["#35b779", "#1f9e89", "#26828e", "#31688e", "#3e4989", "#440154"],
    ring: "#ffffff", cluster: ["#2a788e", "#355f8d", "#414487", "#482475"], clusterText: "#ffffff", chosen: "#c2410c",
  },
  dark: {
    outside: "#0b0f14", scored: "#1d242d", unscored: "#3b3428", density: ["#1f4148", "#27636a", "#2f8f88", "#63c184"], line: "rgba(190, 205, 225, .13)", label: "#93a0ae",
    halo: "rgba(11, 15, 20, .8)", ramp: ["#2a788e", "#22a884", "#44bf70", "#7ad151", "#bddf26", "#fde725"],
    ring: "#0b0f14", cluster: ["#2f9c8c", "#4fbf74", "#9bd93c", "#fde725"], clusterText: "#10151b", chosen: "#fb923c",
  },
};
const LINE_STEPS_DEGREES = [30, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const MIN_LINE_PX = 110;

const features = (list) => ({ type: "FeatureCollection", features: list });
const feature = (type, coordinates, properties = {}) => ({ type: "Feature", geometry: { type, coordinates }, properties });

const boxOf = (west, north, east, south) => {
  const [[left, top], [right, bottom]] = [degreesOf(west, north), degreesOf(east, south)];
  return [[[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]];
};

const coverageOf = (coverage) => {
  const places = readArray(coverage.rectangles, Uint32Array);
  const size = 2 ** -coverage.zoom;
  const boxes = [];
  for (let start = 0; start < places.length; start += 5) {
    const [west, east, north, south, scored] = places.subarray(start, start + 5);
    boxes.push(feature("Polygon", boxOf(west * size, north * size, (east + 1) * size, (south + 1) * size), { scored }));
  }
  return boxes;
};

// The properties of the layers that depend on the colors of the screen.
const paintsOf = (theme, lowest) => {
  const along = (ramp, input, from, to) => [
    "interpolate", ["linear"], input,
    ...ramp.flatMap((color, place) => [from + ((to - from) * place) / (ramp.length - 1), color]),
  ];
  const color = along(theme.ramp, ["get", "probability"], Math.min(lowest, 0.999), 1);
  return {
    outside: { "background-color": theme.outside },
    coverage: { "fill-color": ["case", ["==", ["get", "scored"], 1], theme.scored, theme.unscored] },
    density: { "fill-color": along(theme.density, ["get", "level"], 0, 1) },
    lines: { "line-color": theme.line },
    labels: { "text-color": theme.label, "text-halo-color": theme.halo },
    footprints: { "line-color": color },
    clusters: {
      "circle-color": along(theme.cluster, ["log10", ["get", "count"]], 0, 4), "circle-stroke-color": theme.ring,
    },
    counts: { "text-color": theme.clusterText },
    uncertain: { "circle-stroke-color": color },
    found: { "circle-color": color, "circle-stroke-color": theme.ring },
    chosen: { "circle-stroke-color": theme.chosen },
    "chosen-tile": { "line-color": theme.chosen },
  };
};

const styleOf = (theme, lowest, coverage) => {
  const paints = paintsOf(theme, lowest);
  const empty = { type: "geojson", data: features([]) };
  const sizePx = (more) => ["interpolate", ["linear"], ["zoom"], 4, 3.2 + more, 10, 4.4 + more, 14, 6.5 + more, 18, 9 + more];
  const font = { "text-font": ["system-ui", "sans-serif"] };
  const layer = (id, type, source, more = {}) => ({
    id, type, ...(source && { source }), ...more, paint: { ...more.paint, ...paints[id] },
  });
  const isFound = ["==", ["get", "found"], true];
  return {
    version: 8,
    sources: {
      coverage: { type: "geojson", data: features(coverage), tolerance: 0 },
      density: empty, lines: empty, labels: empty, footprints: empty, clusters: empty, points: empty, chosen: empty, "chosen-tile": empty,
    },
    layers: [
      layer("outside", "background"),
      layer("coverage", "fill", "coverage", { paint: { "fill-antialias": false } }),
      layer("density", "fill", "density", { paint: { "fill-antialias": false } }),
      layer("lines", "line", "lines"),
      layer("footprints", "line", "footprints", { paint: { "line-width": 1.5, "line-opacity": 0.8 } }),
      layer("clusters", "circle", "clusters", {
        paint: { "circle-radius": ["get", "radius"], "circle-stroke-width": 1.5, "circle-opacity": 0.94 },
      }),
      layer("counts", "symbol", "clusters", {
        layout: { ...font, "text-field": ["get", "text"], "text-size": 11.5, "text-allow-overlap": true },
      }),
      layer("uncertain", "circle", "points", {
        filter: ["!", isFound],
        paint: { "circle-radius": sizePx(0), "circle-opacity": 0, "circle-stroke-width": 1.6 },
      }),
      layer("found", "circle", "points", {
        filter: isFound, layout: { "circle-sort-key": ["get", "probability"] },
        paint: { "circle-radius": sizePx(0), "circle-stroke-width": 0.9 },
      }),
      layer("chosen-tile", "line", "chosen-tile", { paint: { "line-width": 2.5 } }),
      layer("chosen", "circle", "chosen", {
        paint: { "circle-radius": sizePx(5), "circle-opacity": 0, "circle-stroke-width": 3 },
      }),
      layer("labels", "symbol", "labels", {
        layout: {
          ...font, "text-field": ["get", "text"], "text-size": 11, "text-anchor": ["get", "anchor"], "text-padding": 4,
          "text-radial-offset": 0.4,
        },
        paint: { "text-halo-width": 1.5 },
      }),
    ],
  };
};

// Lines of longitude and latitude in view, and their labels at the left and the upper edge.
const graticuleOf = (view, zoom) => {
  const degreesPerPx = 360 / (WORLD_PX * 2 ** zoom);
  const step = LINE_STEPS_DEGREES.filter((degrees) => degrees / degreesPerPx >= MIN_LINE_PX).pop() ?? LINE_STEPS_DEGREES[0];
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const [[west, north], [east, south]] = [degreesOf(view.west, view.north), degreesOf(view.east, view.south)];
  const label = (degrees, positive, negative) =>
    `${Math.abs(degrees).toFixed(digits)}°${degrees > 1e-9 ? positive : degrees < -1e-9 ? negative : ""}`;
  const [lines, labels] = [[], []];
  for (let place = Math.ceil(west / step); place * step <= east; place++) {
    const longitude = place * step;
    lines.push(feature("LineString", [[longitude, north], [longitude, south]]));
    const text = label(((((longitude + 180) % 360) + 360) % 360) - 180, " E", " W");
    if (longitude - west > 30 * degreesPerPx && east - longitude > 60 * degreesPerPx) labels.push(feature("Point", [longitude, north], { text, anchor: "top" }));
  }
  for (let place = Math.ceil(south / step); place * step <= north; place++) {
    lines.push(feature("LineString", [[west, place * step], [east, place * step]]));
    if (southOf(place * step) < view.south - 40 / (WORLD_PX * 2 ** zoom)) labels.push(feature("Point", [west, place * step], { text: label(place * step, " N", " S"), anchor: "left" }));
  }
  return { lines: features(lines), labels: features(labels) };
};

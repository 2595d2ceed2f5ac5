// The map: what of the tiles it is given to draw, and how it answers to mouse, keyboard and controls.
const UNCERTAIN = 0.1; // below the threshold
const PX_PER_POINT = 400; // single tiles are drawn when there is this much room for each, else clusters
const FOOTPRINT_PX = 14; // outlines of tiles are drawn from this size on

const data = JSON.parse(document.getElementById("data").textContent);
const points = readPoints(data);
const element = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en-US");
const counted = (count, one) => `${number.format(count)} ${one}${count === 1 ? "" : "s"}`;
const dark = matchMedia("(prefers-color-scheme: dark)");
const themeNow = () => (dark.matches ? THEMES.dark : THEMES.light);
const state = { threshold: data.threshold, uncertain: true, chosen: null, opener: null };

const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const shown = (probability) => probability.toFixed(3);
const centerOf = (index) => degreesOf(points.east[index], points.south[index]);
const numFound = () => numAtLeast(points, state.threshold);
const uncertainFrom = () => Math.max(data.lowest, state.threshold - UNCERTAIN);
const numWithUncertain = () => (state.uncertain ? numAtLeast(points, uncertainFrom()) : numFound());

const viewOf = (map, margin) => {
  const bounds = map.getBounds();
  const [west, east] = [bounds.getWest() / 360 + 0.5, bounds.getEast() / 360 + 0.5];
  const [north, south] = [southOf(bounds.getNorth()), southOf(bounds.getSouth())];
  const [wide, high] = [margin * (east - west), margin * (south - north)];
  return { west: west - wide, east: east + wide, north: north - high, south: south + high };
};

// --- what is drawn

const pointFeature = (index, found) =>
  feature("Point", centerOf(index), { index, probability: points.probability[index], found: index < found });

const footprintOf = (index) => {
  const size = 2 ** -points.z[index];
  const [x, y] = [points.x[index], points.y[index]];
  return boxOf(x * size, y * size, (x + 1) * size, (y + 1) * size)[0];
};

const singlesIn = (view, found, last, zoom) => {
  const [singles, footprints] = [[], []];
  forEachInView(points, 0, last, view, (index) => {
    singles.push(pointFeature(index, found));
    if (WORLD_PX * 2 ** (zoom - points.z[index]) >= FOOTPRINT_PX)
      footprints.push(feature("LineString", footprintOf(index), { probability: points.probability[index] }));
  });
  return { singles, footprints, clusters: [], density: [] };
};

const densityIn = (view, found, zoom) => {
  const { cells, corner, size } = cellsOf(points, found, view, zoom, densityPx(points));
  let most = 2;
  for (const { count } of cells.values()) most = Math.max(most, count);
  return [...cells.values()].map(({ key, count }) => {
    const [east, south] = corner(key);
    return feature("Polygon", boxOf(east, south, east + size, south + size), { level: Math.log(count) / Math.log(most) });
  });
};

const clustersIn = (view, found, zoom) => {
  const [singles, clusters] = [[], []];
  for (const { count, east, south, best } of clustersOf(points, found, view, zoom)) {
    if (count === 1) singles.push(pointFeature(best, found));
    else {
      const text = count < 1000 ? String(count) : `${(count / 1000).toFixed(count < 9950 ? 1 : 0)}k`;
      clusters.push(feature("Point", degreesOf(east, south), { count, text, best, radius: clusterRadius(count) }));
    }
  }
  return { singles, footprints: [], clusters, density: densityIn(view, found, zoom) };
};

const draw = (map) => {
  const [found, last, zoom] = [numFound(), numWithUncertain(), map.getZoom()];
  const { clientWidth, clientHeight } = map.getContainer();
  const room = (clientWidth * clientHeight) / PX_PER_POINT;
  const isSingle = numInView(points, 0, last, viewOf(map, 0)) <= room;
  const view = viewOf(map, 0.25);
  const drawn = isSingle ? singlesIn(view, found, last, zoom) : clustersIn(view, found, zoom);
  const { singles, footprints, clusters, density } = drawn;
  for (const [name, list] of Object.entries({ points: singles, footprints, clusters, density }))
    map.getSource(name).setData(features(list));
  const inView = numInView(points, 0, found, viewOf(map, 0));
  element("in-view").textContent = `${number.format(inView)} in view, ${isSingle ? "each drawn by itself" : "in clusters"}.`;
};

const drawLines = (map) => {
  const { lines, labels } = graticuleOf(viewOf(map, 0), map.getZoom());
  map.getSource("lines").setData(lines);
  map.getSource("labels").setData(labels);
};

// At most one call for each frame of the screen, with the state of that moment.
const eachFrame = (work) => {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    requestAnimationFrame(() => {
      waits = false;
      work();
    });
  };
};

// --- map

const boundsOfAll = () => {
  const boxes = coverageOf(data.coverage).map((box) => box.geometry.coordinates[0]);
  const corners = boxes.flatMap((box) => [box[0], box[2]]);
  const [west, east] = stretchOf(corners.map(([longitude]) => longitude / 360 + 0.5));
  const latitudes = corners.map(([, latitude]) => latitude);
  const [south, north] = latitudes.reduce(([low, high], one) => [Math.min(low, one), Math.max(high, one)], [90, -90]);
  return [[west * 360 - 180, south], [east * 360 - 180, north]];
};

const makeMap = () => {
  const map = new maplibregl.Map({
    container: "map", style: styleOf(themeNow(), data.lowest, coverageOf(data.coverage)),
    bounds: boundsOfAll(), fitBoundsOptions: { padding: 34, maxZoom: data.zoom }, maxZoom: data.zoom + 3,
    attributionControl: false, dragRotate: false, pitchWithRotate: false, maxPitch: 0, fadeDuration: 0,
    locale: { "Map.Title": "Map of the tiles. Arrow keys move it, + and - zoom; Enter opens the tile nearest to its middle" },
  });
  map.touchZoomRotate.disableRotation();
  map.keyboard.disableRotation();
  map.addControl(new maplibregl.NavigationControl({ showCompass: false }), "top-right");
  map.addControl(new maplibregl.ScaleControl({ maxWidth: 120 }), "bottom-left");
  map.getContainer().map = map; // for a browser's console, and for tests
  return map;
};

const nearestToCenter = (map) => {
  const { lng, lat } = map.getCenter();
  const [east, south] = [lng / 360 + 0.5, southOf(lat)];
  let [nearest, least] = [null, Infinity];
  forEachInView(points, 0, numWithUncertain(), viewOf(map, 0), (index, pointEast) => {
    const away = Math.hypot(pointEast - east, points.south[index] - south);
    if (away < least) [nearest, least] = [index, away];
  });
  return nearest;
};

const listenToMap = (map, open) => {
  const layers = ["found", "uncertain", "clusters"];
  const at = ({ x, y }) => map.queryRenderedFeatures([[x - 5, y - 5], [x + 5, y + 5]], { layers })[0];
  map.on("click", (event) => {
    const hit = at(event.point);
    if (hit?.layer.id === "clusters") map.easeTo({ center: hit.geometry.coordinates, zoom: map.getZoom() + 2 });
    else if (hit) open(hit.properties.index, map.getCanvas(), false);
  });
  map.on("mousemove", (event) => (map.getCanvas().style.cursor = at(event.point) ? "pointer" : ""));
  map.getCanvas().addEventListener("keydown", (event) => {
    const nearest = event.key === "Enter" ? nearestToCenter(map) : null;
    if (nearest !== null) open(nearest, map.getCanvas(), false);
  });
};

const listenToControls = (refresh) => {
  const [slider, field] = [element("slider"), element("threshold")];
  const use = (value) => {
    if (!(value >= data.lowest && value <= 1)) return;
    state.threshold = value;
    refresh();
  };
  slider.addEventListener("input", () => {
    use(Number(slider.value));
    field.value = shown(state.threshold);
  });
  const useField = (value) => {
    use(value);
    slider.value = state.threshold;
  };
  field.addEventListener("input", () => field.value && useField(Number(field.value)));
  field.addEventListener("change", () => (field.value = shown(state.threshold)));
  element("own-threshold").addEventListener("click", () => {
    useField(data.threshold);
    field.value = shown(data.threshold);
    slider.focus();
  });
  element("uncertain").addEventListener("change", (event) => {
    state.uncertain = event.target.checked;
    refresh();
  });
};

const start = () => {
  const map = makeMap();
  const redraw = eachFrame(() => draw(map));
  const showHistogram = makeHistogram();
  const open = makePanel(map, redraw);
  const showList = makeList(open);
  const refresh = () => {
    const found = numFound();
    writeCounts(found);
    showHistogram(state.threshold);
    showList(found);
    redraw();
  };
  map.once("style.load", () => {
    listenToControls(refresh);
    listenToMap(map, open);
    map.on("move", eachFrame(() => drawLines(map)));
    map.on("moveend", redraw);
    map.on("resize", redraw);
    dark.addEventListener("change", () => {
      for (const [layer, paint] of Object.entries(paintsOf(themeNow(), data.lowest)))
        for (const [name, value] of Object.entries(paint)) map.setPaintProperty(layer, name, value);
    });
    drawLines(map);
    refresh();
  });
};

document.documentElement.classList.add("live");
try {
  start();
} catch (error) {
  // MapLibre throws where there is no WebGL
  document.documentElement.classList.remove("live");
  element("no-map").hidden = false;
  console.warn(error);
}

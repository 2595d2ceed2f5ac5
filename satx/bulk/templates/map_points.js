// The tiles, from the highest probability to the lowest, and what of them is in view. Positions are parts of the world's
// width and height in Web Mercator, from the west and the north. Knows neither the map nor the page.
const CLUSTER_PX = 64; // cells of the grid of clusters, at whole zooms
// Cells that are colored by their number of tiles; each is a tile of a lower zoom. Larger where there are many, since what a
// movement of the slider costs is mostly that of the cells that are drawn anew.
const densityPx = (points) => (points.count > 30000 ? 8 : 4);
const WORLD_PX = 512; // width of the world at zoom 0

const readArray = (text, ArrayType) => {
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let place = 0; place < bytes.length; place++) bytes[place] = binary.charCodeAt(place);
  return new ArrayType(bytes.buffer);
};

const readPoints = (data) => {
  const z = readArray(data.z, Uint8Array);
  const x = readArray(data.x, Uint32Array);
  const y = readArray(data.y, Uint32Array);
  const probability = readArray(data.probability, Float32Array);
  const pattern = data.patterns.length > 1 ? readArray(data.pattern, Uint32Array) : new Uint32Array(z.length);
  const east = new Float64Array(z.length);
  const south = new Float64Array(z.length);
  for (let index = 0; index < z.length; index++) {
    const size = 2 ** -z[index];
    east[index] = (x[index] + 0.5) * size;
    south[index] = (y[index] + 0.5) * size;
  }
  const nameOf = (index) => {
    const place = { z: z[index], x: x[index], y: y[index] };
    return data.patterns[pattern[index]].map((part) => part.text ?? place[part.axis]).join("");
  };
  return { count: z.length, z, x, y, probability, east, south, nameOf };
};

const degreesOf = (east, south) => [
  east * 360 - 180,
  (Math.atan(Math.sinh(Math.PI * (1 - 2 * south))) * 180) / Math.PI,
];
const southOf = (latitude) => 0.5 - Math.asinh(Math.tan((latitude * Math.PI) / 180)) / (2 * Math.PI);

const numAtLeast = (points, threshold) => {
  const least = Math.fround(threshold); // the run compares as float32, too
  let [low, high] = [0, points.count];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (points.probability[middle] >= least) low = middle + 1;
    else high = middle;
  }
  return low;
};

// Calls `visit(index, east)` for the points `start..stop-1` in view; `east` is at least the view's west, also beyond 180°.
const forEachInView = (points, start, stop, view, visit) => {
  for (let index = start; index < stop; index++) {
    const south = points.south[index];
    if (south < view.north || south > view.south) continue;
    const east = points.east[index] - Math.floor(points.east[index] - view.west);
    if (east <= view.east) visit(index, east);
  }
};

const numInView = (points, start, stop, view) => {
  let number = 0;
  forEachInView(points, start, stop, view, () => number++);
  return number;
};

const clusterRadius = (count) => 8.5 + 3.4 * Math.log10(count);

// Counts the points in the cells of a grid. The grid does not move with the view, so clusters stay while the map is moved.
const cellsOf = (points, stop, view, zoom, cellPx) => {
  const size = cellPx / (WORLD_PX * 2 ** Math.floor(zoom + 0.25)); // 0.84 to 1.68 times `cellPx` on the screen
  const firstColumn = Math.floor(view.west / size);
  const firstRow = Math.floor(view.north / size);
  const columns = Math.floor(view.east / size) - firstColumn + 1;
  const cells = new Map();
  forEachInView(points, 0, stop, view, (index, east) => {
    const key = (Math.floor(points.south[index] / size) - firstRow) * columns + Math.floor(east / size) - firstColumn;
    const cell = cells.get(key);
    if (cell === undefined) cells.set(key, { key, count: 1, east, south: points.south[index], best: index });
    else {
      cell.count++;
      cell.east += east;
      cell.south += points.south[index];
    }
  });
  return { cells, columns, corner: (key) => [(firstColumn + (key % columns)) * size, (firstRow + Math.floor(key / columns)) * size], size };
};

// Clusters of the points `0..stop-1` in view: their count, mean position and best point. A large one takes in a neighbour
// whose circle would overlap its own.
const clustersOf = (points, stop, view, zoom) => {
  const { cells, columns } = cellsOf(points, stop, view, zoom, CLUSTER_PX);
  const worldPx = WORLD_PX * 2 ** zoom;
  const clusters = [];
  for (const cell of [...cells.values()].sort((first, second) => second.count - first.count)) {
    if (!cells.has(cell.key)) continue;
    cells.delete(cell.key);
    const whole = { ...cell };
    for (const step of [-columns - 1, -columns, -columns + 1, -1, 1, columns - 1, columns, columns + 1]) {
      const near = cells.get(cell.key + step);
      if (near === undefined) continue;
      const apart = Math.hypot(near.east / near.count - cell.east / cell.count, near.south / near.count - cell.south / cell.count);
      if (apart * worldPx > clusterRadius(cell.count) + clusterRadius(near.count) + 3) continue;
      cells.delete(near.key);
      whole.count += near.count;
      whole.east += near.east;
      whole.south += near.south;
      whole.best = Math.min(whole.best, near.best);
    }
    clusters.push({ count: whole.count, east: whole.east / whole.count, south: whole.south / whole.count, best: whole.best });
  }
  return clusters;
};

// The shortest stretch of longitudes that contains all of them, as west and east; east is beyond 1 across the antimeridian.
const stretchOf = (easts) => {
  const sorted = Float64Array.from(easts).sort();
  let gap = sorted[0] + 1 - sorted[sorted.length - 1];
  let west = sorted[0];
  for (let place = 1; place < sorted.length; place++) {
    if (sorted[place] - sorted[place - 1] > gap) {
      gap = sorted[place] - sorted[place - 1];
      west = sorted[place];
    }
  }
  return [west, west + 1 - gap];
};

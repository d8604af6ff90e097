// Paths of charts. A missing value leaves a gap.
const WIDTH = 120, HEIGHT = 28;

export const highest = values => values.reduce((most, value) => Math.max(most, value ?? 0), 0);

// The line of some values, oldest first, and the area below it. The newest value is at the right edge.
export function spark(line, area, values, top = highest(values), places = values.length) {
  const step = WIDTH / Math.max(1, places - 1), x = at => WIDTH - (values.length - 1 - at) * step;
  const y = value => HEIGHT - 1 - (HEIGHT - 3) * value / (top || 1);
  let path = "", fill = "", begun = null;
  const close = end => { if (begun !== null && area) fill += `L${x(end).toFixed(1)},${HEIGHT}L${x(begun).toFixed(1)},${HEIGHT}Z`; begun = null; };
  values.forEach((value, at) => {
    if (value === null || value === undefined) return close(at - 1);
    const point = `${begun === null ? "M" : "L"}${x(at).toFixed(1)},${y(value).toFixed(1)}`;
    begun ??= at;
    path += point;
    fill += point;
  });
  close(values.length - 1);
  line.setAttribute("d", path);
  area?.setAttribute("d", fill);
}

// The outlines of layers that are stacked upon each other, the first at the bottom: one path for each of `layers`, which are
// lists of equal length. The highest sum is at the top.
export function stacked(layers, top, width, height) {
  const points = layers[0]?.length ?? 0, step = width / Math.max(1, points - 1);
  let floor = Array(points).fill(0);
  return layers.map(layer => {
    const roof = floor.map((below, at) => below + (layer[at] ?? 0));
    const corner = (sums, at) => `${(at * step).toFixed(1)},${(height - height * sums[at] / (top || 1)).toFixed(1)}`;
    const forth = roof.map((_, at) => corner(roof, at)), back = floor.map((_, at) => corner(floor, at)).reverse();
    floor = roof;
    return points ? `M${forth.join("L")}L${back.join("L")}Z` : "";
  });
}

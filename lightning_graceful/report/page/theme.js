// Figures: plotly knows no CSS variables, so the colours of the theme are set on each drawing.
const page = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const PAINTS = {broke: "--broke-line", fixed: "--fixed-line"};

function painted(trace, ink) {
  const {paint} = trace.meta || {};
  if (trace.type === "heatmap") {
    const [low, high] = paint === "wash" ? ["--wash", "--wash"] : [`--${paint}-low`, `--${paint}-high`];
    return {...trace, colorscale: [[0, css(low)], [1, css(high)]], textfont: {color: ink},
      colorbar: {...trace.colorbar, outlinewidth: 0, thickness: 10}};
  }
  const color = css(PAINTS[paint] || `--${paint}`), bars = bar => bar && {...bar, color};
  return {...trace, marker: {...trace.marker, color}, line: {...trace.line, color},
    error_x: bars(trace.error_x), error_y: bars(trace.error_y)};
}
function themed(figure) {
  const [ink, soft, line, card] = ["--ink", "--soft", "--line", "--card"].map(css);
  const layout = {...figure.layout, showlegend: false, margin: {...figure.layout.margin, t: 10},
    font: {color: ink, size: 13, family: getComputedStyle(document.body).fontFamily},
    hoverlabel: {bgcolor: card, bordercolor: line, font: {color: ink}}};
  for (const axis of ["xaxis", "yaxis"])
    layout[axis] = {...layout[axis], gridcolor: line, linecolor: line,
      title: {...layout[axis].title, font: {color: soft, size: 13}}};
  layout.shapes = (layout.shapes || []).map(shape => ({...shape, line: {...shape.line, color: soft}}));
  layout.annotations = (layout.annotations || []).map(note => ({...note, font: {color: soft, size: 12}}));
  return [figure.data.map(trace => painted(trace, ink)), layout];
}
const draw = (id, figure) => Plotly.react(at(id), ...themed(figure), {displayModeBar: false, responsive: true});
const drawFigures = () => Object.entries(page.figures).forEach(([id, figure]) => draw(id, figure));

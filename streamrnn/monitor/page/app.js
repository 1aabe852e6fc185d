"use strict";
// The live page: asks /api once a second and draws. Text only ever enters the document as text.

const byId = (id) => document.getElementById(id);
const style = () => getComputedStyle(document.documentElement);
const colour = (name) => style().getPropertyValue(name).trim();
const number = (x, digits = 3) => (x === null || x === undefined ? "–" : Number(x).toPrecision(digits).replace(/\.?0+$/, (m) => (m.includes(".") ? "" : m)));
const percent = (x) => (x === null || x === undefined ? "–" : (100 * x).toFixed(1).replace(/^-(?=0\.0$)/, "") + " %");
const token = new URLSearchParams(location.search).get("token");

async function get(path) {
  const headers = token ? { Authorization: "Bearer " + token } : {};
  const answer = await fetch(path, { headers, cache: "no-store" });
  if (!answer.ok && answer.status !== 404) throw new Error(path + ": " + answer.status);
  return answer.json();
}

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function experts(forecasting) {
  return forecasting.experts_chosen && forecasting.experts_chosen !== "named" ? forecasting.experts_chosen : forecasting.experts.join(" ") || "off";
}

function figures(status) {
  const s = status.summary;
  const t = status.trainer || {};
  const rows = [
    [number(s.ticks_per_s, 4), "ticks per second"],
    [number(status.series, 6), "series"],
    [number(status.lag, 6), "records behind"],
    [percent(s.coverage), "inside the " + percent(s.coverage_nominal) + " interval"],
    [percent(s.network_gain), "of the error taken away by the network"],
    [number(s.forecast_ratio), "forecast error / persistence"],
    [experts(status.forecasting), "experts, season " + (status.forecasting.season.join(" and ") || "none")],
    [status.model, "weights in use, " + status.swaps + (status.swaps === 1 ? " swap" : " swaps")],
    [t.up === undefined ? "off" : t.up || t.state === "starting" ? t.state || "starting" : "down", "trainer, " + (t.waits ? "has " + t.waits : (t.accepted ?? 0) + " accepted, " + (t.refused ?? 0) + " refused")],
  ];
  byId("figures").replaceChildren(...rows.map(([value, label]) => {
    const box = element("div", undefined, "figure");
    box.append(element("b", value), element("span", label));
    return box;
  }));
  const state = byId("state");
  state.textContent = status.ready ? "ready" : status.reason;
  state.className = "pill " + (status.ready ? "good" : "bad");
  const refused = Object.entries(status.rejected).map(([reason, count]) => reason + " " + count).join(", ");
  byId("note").textContent = refused ? "refused: " + refused : "";
}

function pick(names) {
  const picker = byId("picker");
  const have = [...picker.options].map((option) => option.value);
  if (names.length === have.length && names.every((name, i) => name === have[i])) return;
  const chosen = picker.value;
  picker.replaceChildren(...names.map((name) => { const option = element("option", name); option.value = name; return option; }));
  if (names.includes(chosen)) picker.value = chosen;
}

function draw(series) {
  const charts = byId("charts");
  while (charts.children.length > series.channels.length) charts.lastChild.remove();
  series.channels.forEach((name, c) => {
    let box = charts.children[c];
    if (!box) {
      box = element("div", undefined, "chart");
      const head = element("h2");
      head.append(element("b"), element("span"));
      box.append(head, document.createElement("canvas"));
      charts.append(box);
    }
    box.querySelector("b").textContent = name;
    plot(box.querySelector("canvas"), box.querySelector("h2 span"), series, c);
  });
}

function plot(canvas, label, series, c) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (!width) return;
  canvas.width = width * ratio; canvas.height = height * ratio;
  const g = canvas.getContext("2d");
  g.scale(ratio, ratio);
  const actual = series.actual.filter(([, v]) => v[c] !== null).map(([ts, v]) => [ts, v[c]]);
  const filled = series.filled.filter((f) => f.filled[c] && f.values[c] !== null);
  const f = series.forecast;
  const fan = f && f.mean[c][0] !== null ? f : null;
  const last = series.levels.length - 1;
  const times = actual.map((p) => p[0]).concat(fan ? [fan.ts + fan.mean[c].length * fan.step_ms] : []);
  const values = actual.map((p) => p[1]).concat(fan ? [...fan.quantiles[c][0], ...fan.quantiles[c][last]] : []);
  if (times.length < 2) { label.textContent = "waiting for ticks"; return; }
  const t0 = Math.min(...times), t1 = Math.max(...times);
  let low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low || Math.abs(high) || 1) * 0.08; low -= pad; high += pad;
  const left = 4, right = width - 56, top = 6, bottom = height - 18;
  const x = (t) => left + (right - left) * (t - t0) / (t1 - t0 || 1);
  const y = (v) => bottom - (bottom - top) * (v - low) / (high - low);
  g.font = "11px system-ui, sans-serif"; g.fillStyle = colour("--soft"); g.strokeStyle = colour("--line"); g.lineWidth = 1;
  for (let k = 0; k <= 3; k++) {
    const v = low + (high - low) * k / 3;
    g.beginPath(); g.moveTo(left, y(v)); g.lineTo(right, y(v)); g.stroke();
    g.fillText(number(v, 4), right + 6, y(v) + 4);
  }
  const clock = (t) => new Date(t).toISOString().slice(11, 19);
  g.fillText(clock(t0), left, height - 4);
  g.textAlign = "right"; g.fillText(clock(t1) + " UTC", right, height - 4); g.textAlign = "left";
  if (fan) {
    const at = (k) => fan.ts + (k + 1) * fan.step_ms;
    const lower = fan.quantiles[c][0], upper = fan.quantiles[c][last];
    g.globalAlpha = 0.25; g.fillStyle = colour("--fan"); g.beginPath();
    upper.forEach((v, k) => (k ? g.lineTo(x(at(k)), y(v)) : g.moveTo(x(at(k)), y(v))));
    for (let k = lower.length - 1; k >= 0; k--) g.lineTo(x(at(k)), y(lower[k]));
    g.closePath(); g.fill(); g.globalAlpha = 1;
    g.strokeStyle = colour("--fan"); g.lineWidth = 2; g.beginPath();
    fan.mean[c].forEach((v, k) => (k ? g.lineTo(x(at(k)), y(v)) : g.moveTo(x(at(k)), y(v))));
    g.stroke();
  }
  g.strokeStyle = colour("--actual"); g.lineWidth = 1.5; g.beginPath();
  let before = null;
  actual.forEach(([t, v]) => {
    const joined = before !== null && t - before <= 1.5 * (f ? f.step_ms : Infinity);
    if (joined) g.lineTo(x(t), y(v)); else g.moveTo(x(t), y(v));
    before = t;
  });
  g.stroke();
  g.fillStyle = colour("--gap"); g.strokeStyle = colour("--gap"); g.lineWidth = 1;
  filled.filter((p) => p.ts >= t0).forEach((p) => {
    g.beginPath(); g.moveTo(x(p.ts), y(p.lower[c])); g.lineTo(x(p.ts), y(p.upper[c])); g.stroke();
    g.beginPath(); g.arc(x(p.ts), y(p.values[c]), 2.5, 0, 7); g.fill();
  });
  const newest = actual.length ? number(actual[actual.length - 1][1], 5) : "–";
  label.textContent = fan ? newest + " → " + number(fan.mean[c][fan.mean[c].length - 1], 5) + (fan.warm ? "" : " (warming up)") : newest;
}

async function turn() {
  try {
    figures(await get("/api/status"));
    pick((await get("/api/series")).series);
    const chosen = byId("picker").value;
    if (chosen) {
      const series = await get("/api/series/" + encodeURIComponent(chosen));
      if (series.channels) draw(series);
    }
  } catch (error) {
    const state = byId("state");
    state.textContent = "no answer"; state.className = "pill bad";
  }
  setTimeout(turn, 1000);
}

byId("picker").addEventListener("change", () => byId("charts").replaceChildren());
turn();

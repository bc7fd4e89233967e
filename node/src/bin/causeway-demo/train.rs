//! A perceptron with two hidden layers, trained by stochastic gradient descent with momentum on binary cross-entropy.
//!
//! Source: Goodfellow, Bengio, Courville, "Deep Learning", chapters 6 and 8; first weights after Glorot & Bengio, 2010.

use crate::noise;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

const HIDDEN: usize = 32;
const BATCH: usize = 16;
const RATE: f64 = 0.05;
const MOMENTUM: f64 = 0.9;

/// One dense layer: `out x in` weights row by row, then `out` biases, with the speed of each.
struct Layer {
    inputs: usize,
    outputs: usize,
    weights: Vec<f64>,
    bias: Vec<f64>,
    weights_speed: Vec<f64>,
    bias_speed: Vec<f64>,
    weights_slope: Vec<f64>,
    bias_slope: Vec<f64>,
    /// `tanh` on all layers but the last, which gives a logit.
    bent: bool,
}

impl Layer {
    fn new(inputs: usize, outputs: usize, bent: bool, seed: u64) -> Self {
        let reach = (6.0 / (inputs + outputs) as f64).sqrt();
        let count = inputs * outputs;
        Self {
            inputs,
            outputs,
            weights: (0..count as u64).map(|at| 2.0 * reach * noise::centred(seed, at)).collect(),
            bias: vec![0.0; outputs],
            weights_speed: vec![0.0; count],
            bias_speed: vec![0.0; outputs],
            weights_slope: vec![0.0; count],
            bias_slope: vec![0.0; outputs],
            bent,
        }
    }

    fn forward(&self, x: &[f64], y: &mut [f64]) {
        for ((row, bias), y) in self.weights.chunks_exact(self.inputs).zip(&self.bias).zip(y) {
            let sum = bias + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
            *y = if self.bent { sum.tanh() } else { sum };
        }
    }

    /// Adds to the slopes; `slope` is the loss's by this layer's result, `back` becomes the one by its input.
    fn backward(&mut self, x: &[f64], y: &[f64], slope: &[f64], back: &mut [f64]) {
        back.fill(0.0);
        for o in 0..self.outputs {
            let s = if self.bent { slope[o] * (1.0 - y[o] * y[o]) } else { slope[o] };
            self.bias_slope[o] += s;
            let at = o * self.inputs;
            for i in 0..self.inputs {
                self.weights_slope[at + i] += s * x[i];
                back[i] += s * self.weights[at + i];
            }
        }
    }

    fn step(&mut self, count: usize, rate: f64) {
        let scale = rate / count as f64;
        let parts = [
            (&mut self.weights, &mut self.weights_speed, &mut self.weights_slope),
            (&mut self.bias, &mut self.bias_speed, &mut self.bias_slope),
        ];
        for (values, speeds, slopes) in parts {
            for ((value, speed), slope) in values.iter_mut().zip(speeds).zip(slopes) {
                *speed = MOMENTUM * *speed - scale * *slope;
                *value += *speed;
                *slope = 0.0;
            }
        }
    }
}

/// A point of the plane and its label, 0 or 1.
type Point = ([f64; 2], f64);

fn read(path: &Path) -> Result<Vec<Point>, Box<dyn Error>> {
    let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut points = Vec::new();
    for (number, line) in text.lines().enumerate().skip(1) {
        let fields: Vec<f64> = line
            .split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|error| format!("{} line {}: {error}", path.display(), number + 1))?;
        let [x, y, label] = fields[..] else {
            return Err(format!("{} line {}: expected x,y,label", path.display(), number + 1).into());
        };
        points.push(([x, y], label));
    }
    if points.is_empty() { Err(format!("{} has no points", path.display()).into()) } else { Ok(points) }
}

/// `log(1 + e^z) - label * z`: cross-entropy of a logit, without overflow.
fn cross_entropy(logit: f64, label: f64) -> f64 {
    logit.max(0.0) - logit * label + (-logit.abs()).exp().ln_1p()
}

struct Network {
    layers: [Layer; 3],
    results: [Vec<f64>; 3],
    slopes: [Vec<f64>; 3],
}

impl Network {
    fn new(seed: u64) -> Self {
        Self {
            layers: [
                Layer::new(2, HIDDEN, true, seed),
                Layer::new(HIDDEN, HIDDEN, true, seed + 1),
                Layer::new(HIDDEN, 1, false, seed + 2),
            ],
            results: [vec![0.0; HIDDEN], vec![0.0; HIDDEN], vec![0.0; 1]],
            slopes: [vec![0.0; 2], vec![0.0; HIDDEN], vec![0.0; HIDDEN]],
        }
    }

    fn logit(&mut self, x: &[f64; 2]) -> f64 {
        let [first, second, last] = &mut self.results;
        self.layers[0].forward(x, first);
        self.layers[1].forward(first, second);
        self.layers[2].forward(second, last);
        last[0]
    }

    fn learn(&mut self, (x, label): &Point) {
        let logit = self.logit(x);
        let slope = [1.0 / (1.0 + (-logit).exp()) - label];
        let [into_first, into_second, into_last] = &mut self.slopes;
        self.layers[2].backward(&self.results[1], &self.results[2], &slope, into_last);
        self.layers[1].backward(&self.results[0], &self.results[1], into_last, into_second);
        self.layers[0].backward(x, &self.results[0], into_second, into_first);
    }

    fn mean_loss(&mut self, points: &[Point]) -> f64 {
        points.iter().map(|(x, label)| cross_entropy(self.logit(x), *label)).sum::<f64>() / points.len() as f64
    }

    fn to_json(&self) -> String {
        let numbers = |values: &[f64]| values.iter().map(|value| format!("{value:e}")).collect::<Vec<_>>().join(", ");
        let layers: Vec<String> = self
            .layers
            .iter()
            .map(|layer| {
                format!(
                    "  {{\"inputs\": {}, \"outputs\": {}, \"activation\": \"{}\",\n   \"weights\": [{}],\n   \"bias\": [{}]}}",
                    layer.inputs,
                    layer.outputs,
                    if layer.bent { "tanh" } else { "linear" },
                    numbers(&layer.weights),
                    numbers(&layer.bias)
                )
            })
            .collect();
        format!("{{\"layers\": [\n{}\n]}}\n", layers.join(",\n"))
    }
}

/// Trains until the mean loss over all points is at most `target`, and writes the model and the losses.
pub fn run(data: &Path, epochs: u32, target: f64, seed: u64, out: &Path) -> Result<(), Box<dyn Error>> {
    let points = read(data)?;
    println!("train: {} points, 2-{HIDDEN}-{HIDDEN}-1, at most {epochs} epochs, to a loss of {target}", points.len());
    let mut network = Network::new(seed);
    let mut order: Vec<usize> = (0..points.len()).collect();
    let mut losses = String::from("epoch,loss\n");
    let mut loss = network.mean_loss(&points);
    writeln!(losses, "0,{loss:e}")?;
    for epoch in 1..=epochs {
        for at in (1..order.len()).rev() {
            let other = noise::bits(seed ^ 0x5417, u64::from(epoch) << 32 | at as u64) % (at as u64 + 1);
            order.swap(at, other as usize);
        }
        for batch in order.chunks(BATCH) {
            for &at in batch {
                network.learn(&points[at]);
            }
            network.layers.iter_mut().for_each(|layer| layer.step(batch.len(), RATE));
        }
        loss = network.mean_loss(&points);
        writeln!(losses, "{epoch},{loss:e}")?;
        if epoch % 10 == 0 || loss <= target {
            println!("train: epoch {epoch}, loss {loss:.6}");
        }
        if loss <= target {
            break;
        }
    }
    std::fs::write(out.join("model.json"), network.to_json())?;
    std::fs::write(out.join("losses.csv"), losses)?;
    if loss <= target {
        println!("train: reached {loss:.6}");
        Ok(())
    } else {
        Err(format!("the loss is {loss:.6} after {epochs} epochs, not {target}").into())
    }
}

//! The training job: the loss of the model on the data, computed again from both, against what the program claims.
//!
//! Definition: layers one after the other, each `activation(W x + b)` with `W` given row by row; the last gives a logit z.
//! The loss is the mean of `-ln p` over the points, where `p` is `1 / (1 + e^-z)` for label 1 and `1 / (1 + e^z)` for 0.

use super::CheckError;
use serde::Deserialize;

/// The claim and the recomputed loss may differ by this, relative to 1: the two add in different orders.
const CLAIM_TOLERANCE: f64 = 1e-9;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Model {
    layers: Vec<Dense>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Dense {
    inputs: usize,
    outputs: usize,
    activation: Activation,
    weights: Vec<f64>,
    bias: Vec<f64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Activation {
    Tanh,
    Linear,
}

impl Model {
    fn read(text: &str) -> Result<Self, CheckError> {
        let model: Self = serde_json::from_str(text).map_err(|error| CheckError::shape("model.json", error))?;
        let mut width = 2;
        for (number, layer) in model.layers.iter().enumerate() {
            let fits = layer.inputs == width
                && Some(layer.weights.len()) == layer.inputs.checked_mul(layer.outputs)
                && layer.bias.len() == layer.outputs;
            if !fits {
                return Err(CheckError::shape("model.json", format!("layer {number} does not fit")));
            }
            width = layer.outputs;
        }
        if width == 1 && !model.layers.is_empty() {
            Ok(model)
        } else {
            Err(CheckError::shape("model.json", "the last layer does not give one number"))
        }
    }

    fn logit(&self, point: [f64; 2]) -> f64 {
        let last = self.layers.iter().fold(point.to_vec(), |values, layer| {
            (0..layer.outputs)
                .map(|row| {
                    let at = row * layer.inputs;
                    let sum = (0..layer.inputs).fold(0.0, |sum, i| sum + layer.weights[at + i] * values[i]);
                    match layer.activation {
                        // (e^2s - 1) / (e^2s + 1), by the function that keeps its digits near 0
                        Activation::Tanh => {
                            let grown = f64::exp_m1(2.0 * (sum + layer.bias[row]).clamp(-20.0, 20.0));
                            grown / (grown + 2.0)
                        }
                        Activation::Linear => sum + layer.bias[row],
                    }
                })
                .collect()
        });
        last[0]
    }
}

/// Checks `model.json` and the last line of `losses.csv` against the data set and the loss it had to reach.
///
/// # Errors
/// [`CheckError::Shape`] where one of the three cannot be read; [`CheckError::Wrong`] where the loss is over `target` or not
/// what was claimed.
pub fn check_model(model: &str, losses: &str, data: &str, target: f64) -> Result<String, CheckError> {
    let model = Model::read(model)?;
    let claim: f64 = losses
        .lines()
        .last()
        .and_then(|line| line.split_once(',')?.1.parse().ok())
        .ok_or_else(|| CheckError::shape("losses.csv", "its last line is not `epoch,loss`"))?;

    let (mut sum, mut right, mut count) = (0.0, 0u32, 0u32);
    for line in data.lines().skip(1) {
        let mut fields = line.split(',').map(str::parse::<f64>);
        let (Some(Ok(x)), Some(Ok(y)), Some(Ok(label)), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(CheckError::shape("data.csv", format!("line {:?}", line.chars().take(40).collect::<String>())));
        };
        let towards = if label == 1.0 { model.logit([x, y]) } else { -model.logit([x, y]) };
        // -ln(1 / (1 + e^-t)), without overflow for very negative t
        sum += if towards < -30.0 { -towards } else { f64::ln_1p(f64::exp(-towards)) };
        right += u32::from(towards > 0.0);
        count += 1;
    }
    if count == 0 {
        return Err(CheckError::shape("data.csv", "no points"));
    }
    let loss = sum / f64::from(count);
    if loss.is_nan() || loss > target {
        return Err(CheckError::Wrong {
            what: "the loss",
            found: format!("{loss:.6}"),
            expected: format!("at most {target}"),
        });
    }
    if claim.is_nan() || (loss - claim).abs() > CLAIM_TOLERANCE {
        return Err(CheckError::Wrong {
            what: "the claimed loss",
            found: format!("{claim:e}"),
            expected: format!("{loss:e} as recomputed"),
        });
    }
    Ok(format!("loss {loss:.6} on {count} points, at most {target}; {right} of {count} classified right"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `tanh(3 x)`, then 5 times that: label 1 right of the axis.
    const MODEL: &str = r#"{"layers": [
        {"inputs": 2, "outputs": 1, "activation": "tanh", "weights": [3.0, 0.0], "bias": [0.0]},
        {"inputs": 1, "outputs": 1, "activation": "linear", "weights": [5.0], "bias": [0.0]}]}"#;
    const DATA: &str = "x,y,label\n1.0,7.0,1\n-1.0,-7.0,0\n";

    fn true_loss() -> f64 {
        (-5.0 * 3f64.tanh()).exp().ln_1p()
    }

    fn losses() -> String {
        format!("epoch,loss\n0,0.7\n1,{:e}\n", true_loss())
    }

    #[test]
    fn a_right_model_passes() {
        let fact = check_model(MODEL, &losses(), DATA, 0.01).unwrap();
        assert!(fact.contains("2 of 2"), "{fact}");
    }

    #[test]
    fn a_changed_weight_is_seen() {
        let spoilt = MODEL.replace("[5.0]", "[5.001]");
        assert!(matches!(
            check_model(&spoilt, &losses(), DATA, 0.01),
            Err(CheckError::Wrong { what: "the claimed loss", .. })
        ));
    }

    #[test]
    fn a_loss_over_the_target_is_seen() {
        assert!(matches!(check_model(MODEL, &losses(), DATA, 0.001), Err(CheckError::Wrong { what: "the loss", .. })));
        let nan = MODEL.replace("[5.0]", "[1e999]");
        assert!(check_model(&nan, &losses(), DATA, 0.01).is_err());
    }

    #[test]
    fn changed_data_are_seen() {
        assert!(check_model(MODEL, &losses(), &DATA.replace("1.0,7.0,1", "1.0,7.0,0"), 0.01).is_err());
        assert!(matches!(check_model(MODEL, &losses(), "x,y,label\n1.0,7.0\n", 0.01), Err(CheckError::Shape { .. })));
    }

    #[test]
    fn misfitting_layers_are_seen() {
        let spoilt = MODEL.replace(r#""inputs": 1, "#, r#""inputs": 2, "#);
        assert!(matches!(check_model(&spoilt, &losses(), DATA, 0.01), Err(CheckError::Shape { .. })));
    }
}

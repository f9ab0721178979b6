//! The three workloads in candle on the CPU.

use std::rc::Rc;

use candle_core::{D, DType, Device, Result, Tensor};
use candle_nn::rnn::{Direction, LSTM, LSTMConfig, RNN};
use candle_nn::*;
use measure::{Args, Batches};

#[path = "../../common/measure.rs"]
mod measure;

enum Net {
    Cnn { conv1: Conv2d, conv2: Conv2d, dense: Linear, logits: Linear },
    Mlp { first: Linear, second: Linear, logits: Linear },
    Lstm { forward: LSTM, backward: LSTM, logits: Linear },
}

impl Net {
    fn new(workload: &str, vb: VarBuilder) -> Result<Net> {
        let same = Conv2dConfig { padding: 2, ..Default::default() };
        let reverse = LSTMConfig { direction: Direction::Backward, ..Default::default() };
        Ok(match workload {
            "cnn" => Net::Cnn {
                conv1: conv2d(1, 32, 5, same, vb.pp("conv1"))?,
                conv2: conv2d(32, 64, 5, same, vb.pp("conv2"))?,
                dense: linear(3136, 1024, vb.pp("dense"))?,
                logits: linear(1024, 10, vb.pp("logits"))?,
            },
            "mlp" => Net::Mlp {
                first: linear(784, 512, vb.pp("first"))?,
                second: linear(512, 512, vb.pp("second"))?,
                logits: linear(512, 10, vb.pp("logits"))?,
            },
            _ => Net::Lstm {
                forward: rnn::lstm(300, 100, LSTMConfig::default(), vb.pp("lstm"))?,
                backward: rnn::lstm(300, 100, reverse, vb.pp("lstm"))?,
                logits: linear(200, 10, vb.pp("logits"))?,
            },
        })
    }

    /// A row of logits for every label.
    fn logits(&self, x: Vec<f32>, training: bool) -> Result<Tensor> {
        let device = &Device::Cpu;
        match self {
            Net::Cnn { conv1, conv2, dense, logits } => {
                let batch = x.len() / 784;
                let x = Tensor::from_vec(x, (batch, 1, 28, 28), device)?;
                let x = conv1.forward(&x)?.relu()?.max_pool2d(2)?;
                let x = conv2.forward(&x)?.relu()?.max_pool2d(2)?.flatten_from(1)?;
                let x = dense.forward(&x)?.relu()?;
                logits.forward(&if training { ops::dropout(&x, 0.4)? } else { x })
            }
            Net::Mlp { first, second, logits } => {
                let batch = x.len() / 784;
                let x = Tensor::from_vec(x, (batch, 784), device)?;
                logits.forward(&second.forward(&first.forward(&x)?.relu()?)?.relu()?)
            }
            Net::Lstm { forward, backward, logits } => {
                let batch = x.len() / (32 * 300);
                let x = Tensor::from_vec(x, (batch, 32, 300), device)?;
                let ahead = forward.states_to_tensor(&forward.seq(&x)?)?;
                // `seq` only goes forward in time.
                let mut state = backward.zero_state(batch)?;
                let mut states = Vec::with_capacity(32);
                for t in (0..32).rev() {
                    state = backward.step(&x.narrow(1, t, 1)?.squeeze(1)?.contiguous()?, &state)?;
                    states.push(state.clone());
                }
                states.reverse();
                let back = backward.states_to_tensor(&states)?;
                logits.forward(&Tensor::cat(&[&ahead, &back], D::Minus1)?)?.reshape((batch * 32, 10))
            }
        }
    }
}

enum Update {
    Sgd(SGD),
    Adam(AdamW),
}

fn indices(labels: Vec<i64>) -> Result<Tensor> {
    let count = labels.len();
    Tensor::from_vec(labels.into_iter().map(|label| label as u32).collect::<Vec<_>>(), count, &Device::Cpu)
}

fn train(net: &Net, update: &mut Update, batches: &mut Batches) -> Result<f32> {
    let (x, y) = batches.next();
    let loss = loss::cross_entropy(&net.logits(x, true)?, &indices(y)?)?;
    let gradients = loss.backward()?;
    match update {
        Update::Sgd(sgd) => sgd.step(&gradients)?,
        Update::Adam(adam) => adam.step(&gradients)?,
    }
    loss.to_scalar::<f32>()
}

fn evaluate(net: &Net, batches: &mut Batches) -> Result<(f32, f32)> {
    let (x, y) = batches.next();
    let (count, labels) = (y.len() as f32, indices(y)?);
    let logits = net.logits(x, false)?.detach();
    let hits = logits.argmax(D::Minus1)?.eq(&labels)?.to_dtype(DType::F32)?.sum_all()?.to_scalar::<f32>()?;
    Ok((loss::cross_entropy(&logits, &labels)?.to_scalar::<f32>()?, hits / count))
}

fn main() -> Result<()> {
    let args = Args::parse();
    let variables = VarMap::new();
    let builder = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let net = Rc::new(Net::new(&args.workload, builder)?);
    let adam = ParamsAdamW { lr: 1e-3, weight_decay: 0.0, ..Default::default() };
    let mut update = match args.workload.as_str() {
        "cnn" => Update::Sgd(SGD::new(variables.all_vars(), 1e-3)?),
        _ => Update::Adam(AdamW::new(variables.all_vars(), adam)?),
    };
    let trained = net.clone();
    let train_step = move |batches: &mut Batches| train(&net, &mut update, batches).expect("a training step");
    let evaluation = move || move |batches: &mut Batches| evaluate(&trained, batches).expect("an evaluation step");
    measure::run(&args, "candle 0.11.1", train_step, evaluation);
    Ok(())
}

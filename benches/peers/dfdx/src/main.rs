//! The mlp workload in plain dfdx on the CPU, by hand. (Its convolutions need a nightly compiler, and it has no LSTM.)

use std::{cell::RefCell, rc::Rc};

use dfdx::optim::{Adam, AdamConfig};
use dfdx::prelude::*;
use measure::{Args, Batches};

#[path = "../../common/measure.rs"]
mod measure;

type Mlp = ((Linear<784, 512>, ReLU), (Linear<512, 512>, ReLU), Linear<512, 10>);
const BATCH: usize = 128;

fn one_hot(labels: &[i64]) -> Vec<f32> {
    let mut rows = vec![0.0; labels.len() * 10];
    labels.iter().enumerate().for_each(|(row, &label)| rows[row * 10 + label as usize] = 1.0);
    rows
}

fn argmax(row: &[f32]) -> usize {
    (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap()
}

fn main() {
    let args = Args::parse();
    assert_eq!(args.workload, "mlp", "only the workload mlp");
    let device = Cpu::default();
    let model = device.build_module::<Mlp, f32>();
    let mut kept = Some(model.alloc_grads());
    let mut optimizer = Adam::new(&model, AdamConfig { lr: 1e-3, ..Default::default() });
    let model = Rc::new(RefCell::new(model));
    let (trained, evaluation_device) = (model.clone(), device.clone());
    let train_step = move |batches: &mut Batches| {
        let (x, y) = batches.next();
        let x = device.tensor_from_vec(x, (Const::<BATCH>, Const::<784>));
        let targets = device.tensor_from_vec(one_hot(&y), (Const::<BATCH>, Const::<10>));
        let mut model = model.borrow_mut();
        let logits = model.forward_mut(x.traced(kept.take().unwrap()));
        let loss = cross_entropy_with_logits_loss(logits, targets);
        let value = loss.array();
        let mut gradients = loss.backward();
        optimizer.update(&mut *model, &gradients).unwrap();
        model.zero_grads(&mut gradients);
        kept = Some(gradients);
        value
    };
    let evaluation = move || {
        move |batches: &mut Batches| {
            let (x, y) = batches.next();
            let x = evaluation_device.tensor_from_vec(x, (Const::<BATCH>, Const::<784>));
            let targets = evaluation_device.tensor_from_vec(one_hot(&y), (Const::<BATCH>, Const::<10>));
            let logits = trained.borrow().forward(x);
            let values = logits.as_vec();
            let hits = values.chunks(10).zip(&y).filter(|(row, &label)| argmax(row) == label as usize).count();
            (cross_entropy_with_logits_loss(logits, targets).array(), hits as f32 / BATCH as f32)
        }
    };
    measure::run(&args, "dfdx 0.13.0", train_step, evaluation);
}

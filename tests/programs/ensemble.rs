//! An ensemble of checkpoints in one process.

#[path = "../common/mod.rs"]
mod common;

use common::{Line, in_dir, points, train_data};
use elistimator::prelude::*;

#[test]
fn members_from_several_checkpoints_predict_side_by_side() {
    let dir = tempfile::tempdir().unwrap();
    let mut estimator = in_dir(dir.path()).max_to_keep(0).build().unwrap();
    estimator.setup(Inputs::train(train_data())).unwrap();
    let mut expected = Vec::new();
    for _ in 0..3 {
        let step = estimator.train().unwrap().save_ckpt().unwrap().step;
        expected.push((step, estimator.evaluate(points(20).batch(7)).unwrap()));
    }
    let members: Vec<Elistimator<Line>> = expected
        .iter()
        .map(|(step, _)| Builder::from_disk(dir.path(), *step).unwrap().progress(ProgressMode::Off).build().unwrap())
        .collect();
    for (member, (step, metrics)) in members.iter().zip(&expected) {
        assert_eq!(member.global_step(), *step);
        assert_eq!(&member.evaluate(points(20).batch(7)).unwrap(), metrics);
    }
    // The mean of three regressions is no worse than the worst of them.
    let x = || Array::new([2, 3], vec![0.5f32, 0.1, -0.4, 0.3, -0.2, 0.9]).unwrap();
    let outputs: Vec<Vec<f32>> = members
        .iter()
        .map(|member| member.predict([x()]).unwrap().get("y").unwrap().as_slice::<f32>().unwrap().to_vec())
        .collect();
    let truth = [0.5 - 0.2 - 0.2, 0.3 + 0.4 + 0.45];
    for example in 0..2 {
        let mean = outputs.iter().map(|member| member[example]).sum::<f32>() / 3.0;
        let worst = outputs.iter().map(|member| (member[example] - truth[example]).abs()).fold(0.0, f32::max);
        assert!((mean - truth[example]).abs() <= worst);
    }
    assert_ne!(outputs[0], outputs[2], "the members differ");
}

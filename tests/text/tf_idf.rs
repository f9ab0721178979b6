//! TF-IDF against what scikit-learn computes; `tests/data/tfidf.py` wrote the values.

use elistimator::text::TfIdf;
use serde::Deserialize;

#[derive(Deserialize)]
struct File {
    size: usize,
    documents: Vec<Vec<i64>>,
    unseen: Vec<Vec<i64>>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    sublinear: bool,
    normalized: bool,
    idf: Vec<f64>,
    weights: Vec<Vec<f64>>,
}

#[test]
fn weights_are_those_of_scikit_learn() {
    let file: File = serde_json::from_str(include_str!("../data/tfidf.json")).unwrap();
    assert_eq!(file.cases.len(), 4);
    for case in file.cases {
        let tf_idf = TfIdf::fit(file.size, &file.documents).unwrap();
        let tf_idf = tf_idf.sublinear(case.sublinear).normalized(case.normalized);
        // Saved and loaded, it is the same.
        let tf_idf: TfIdf = serde_json::from_slice(&serde_json::to_vec(&tf_idf).unwrap()).unwrap();
        for (id, expected) in case.idf.iter().enumerate() {
            assert!((tf_idf.idf(id as i64).unwrap() - expected).abs() < 1e-12, "id {id}");
        }
        for (document, expected) in file.documents.iter().chain(&file.unseen).zip(&case.weights) {
            let mut found = vec![0.0; file.size];
            tf_idf.weights(document).unwrap().into_iter().for_each(|(id, weight)| found[id as usize] = weight);
            let row = tf_idf.row(document).unwrap();
            for id in 0..file.size {
                assert!((found[id] - expected[id]).abs() < 1e-12, "id {id}: {} and {}", found[id], expected[id]);
                assert_eq!(row[id], found[id] as f32);
            }
        }
    }
}

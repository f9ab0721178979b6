//! Which operation is made how on CUDA devices.

use dfdx::shapes::Shape;
use dfdx::tensor::{Cuda, Tape};

use super::{
    attention, batch_norm, concatenate, convolution, crf, ctc, elementwise, embedding, linear, loss, normalization,
    pool, recurrent, sum,
};
use crate::ModelResult;
use crate::nn::backend::{
    Attention, Backend, Convolution, Direction, Labellings, Normalized, Pooling, Recurrence, RecurrentRun, Rows,
    Sequences, State, Statistics, Targets, Transitions,
};
use crate::nn::window::WindowOver;
use crate::nn::{Activation, Parameter, Tensor};

impl Backend for Cuda {
    fn activation<S: Shape, T: Tape<f32, Self>>(
        x: Tensor<S, Self, T>,
        activation: Activation,
    ) -> ModelResult<Tensor<S, Self, T>> {
        elementwise::activation(x, activation)
    }

    fn linear<T: Tape<f32, Self>>(
        x: Tensor<(usize, usize), Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        activation: Activation,
        input_gradient: bool,
    ) -> ModelResult<Tensor<(usize, usize), Self, T>> {
        linear::linear(x, weight, bias, activation, input_gradient)
    }

    fn dropout<S: Shape, T: Tape<f32, Self>>(
        x: Tensor<S, Self, T>,
        key: u64,
        threshold: u32,
        scale: f32,
    ) -> ModelResult<Tensor<S, Self, T>> {
        elementwise::dropout(x, key, threshold, scale)
    }

    fn conv2d<T: Tape<f32, Self>>(
        x: Tensor<(usize, usize, usize, usize), Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        convolution: &Convolution,
        activation: Activation,
    ) -> ModelResult<Tensor<(usize, usize, usize, usize), Self, T>> {
        convolution::conv2d(x, weight, bias, convolution, activation)
    }

    fn conv_block<T: Tape<f32, Self>>(
        x: Tensor<(usize, usize, usize, usize), Self, T>,
        weight: &Parameter<Self>,
        bias: Option<&Parameter<Self>>,
        convolution: &Convolution,
        pool: (usize, usize),
    ) -> ModelResult<Tensor<(usize, usize, usize, usize), Self, T>> {
        convolution::conv_block(x, weight, bias, convolution, pool)
    }

    fn pool2d<T: Tape<f32, Self>>(
        x: Tensor<(usize, usize, usize, usize), Self, T>,
        window: &WindowOver,
        pooling: Pooling,
    ) -> ModelResult<Tensor<(usize, usize, usize, usize), Self, T>> {
        pool::pool2d(x, window, pooling)
    }

    fn cross_entropy<T: Tape<f32, Self>>(
        logits: Tensor<(usize, usize), Self, T>,
        targets: Targets<'_, Self>,
        row_weights: &[f32],
    ) -> ModelResult<Tensor<(usize,), Self, T>> {
        loss::cross_entropy(logits, targets, row_weights)
    }

    fn sum<T: Tape<f32, Self>>(x: Tensor<(usize,), Self, T>) -> ModelResult<Tensor<(), Self, T>> {
        sum::sum(x)
    }

    fn row_sums<T: Tape<f32, Self>>(x: Rows<Self, T>) -> ModelResult<Tensor<(usize,), Self, T>> {
        sum::row_sums(x)
    }

    fn middle_sums<T: Tape<f32, Self>>(x: Sequences<Self, T>) -> ModelResult<Rows<Self, T>> {
        sum::middle_sums(x)
    }

    fn embedding<T: Tape<f32, Self>>(
        weight: &Parameter<Self>,
        ids: Vec<usize>,
        padding: Option<usize>,
        tape: T,
    ) -> ModelResult<Tensor<(usize, usize), Self, T>> {
        embedding::embedding(weight, ids, padding, tape)
    }

    fn embedding_bag<T: Tape<f32, Self>>(
        weight: &Parameter<Self>,
        ids: Vec<usize>,
        sizes: Vec<usize>,
        factors: Vec<f32>,
        tape: T,
    ) -> ModelResult<Tensor<(usize, usize), Self, T>> {
        embedding::embedding_bag(weight, ids, sizes, factors, tape)
    }

    fn layer_norm<T: Tape<f32, Self>>(
        x: Tensor<(usize, usize), Self, T>,
        weight: &Parameter<Self>,
        bias: &Parameter<Self>,
        epsilon: f32,
    ) -> ModelResult<Tensor<(usize, usize), Self, T>> {
        normalization::layer_norm(x, weight, bias, epsilon)
    }

    fn batch_norm<T: Tape<f32, Self>>(
        x: Sequences<Self, T>,
        weight: &Parameter<Self>,
        bias: &Parameter<Self>,
        epsilon: f32,
        statistics: Option<Statistics<Self>>,
    ) -> ModelResult<Normalized<Self, T>> {
        batch_norm::batch_norm(x, weight, bias, epsilon, statistics)
    }

    fn attention<T: Tape<f32, Self>>(
        queries: Sequences<Self, T>,
        keys: Sequences<Self, T>,
        values: Sequences<Self, T>,
        attention: &Attention<'_>,
    ) -> ModelResult<Sequences<Self, T>> {
        attention::attention(queries, keys, values, attention)
    }

    fn recurrent<T: Tape<f32, Self>>(
        x: Sequences<Self, T>,
        directions: &[Direction<'_, Self>],
        initial: Vec<State<Self>>,
        recurrence: &Recurrence<'_>,
    ) -> ModelResult<RecurrentRun<Self, T>> {
        recurrent::recurrent(x, directions, initial, recurrence)
    }

    fn ctc<T: Tape<f32, Self>>(
        logits: Sequences<Self, T>,
        labellings: &Labellings<'_>,
    ) -> ModelResult<Tensor<(usize,), Self, T>> {
        ctc::ctc(logits, labellings)
    }

    fn concatenate<T: Tape<f32, Self>>(parts: Vec<Rows<Self, T>>) -> ModelResult<Rows<Self, T>> {
        concatenate::concatenate(parts)
    }

    fn crf<T: Tape<f32, Self>>(
        emissions: Sequences<Self, T>,
        transitions: Transitions<'_, Self>,
        tags: &[usize],
        lengths: &[usize],
    ) -> ModelResult<Tensor<(usize,), Self, T>> {
        crf::crf(emissions, transitions, tags, lengths)
    }
}

//! Recurrent layers over padded batches.

use std::marker::PhantomData;

use dfdx::shapes::{Dim, HasShape};
use dfdx::tensor::{PutTape, SplitTape, Tape};
use dfdx::tensor_ops::ReshapeTo;

use crate::nn::backend::{Cell, Direction, Recurrence, RecurrentRun, State};
use crate::nn::mask::check_lengths;
use crate::nn::{Init, Layer, Network, Parameter, Tensor, Visitor, VisitorMut};
use crate::{Device, ModelError, ModelResult};

/// The trained tensors of one direction.
#[derive(Debug)]
pub struct RecurrentWeights<D: Device> {
    /// `(gates * hidden, inputs)`.
    pub weight_ih: Parameter<D>,
    /// `(gates * hidden, hidden)`.
    pub weight_hh: Parameter<D>,
    /// `(gates * hidden)`.
    pub bias: Parameter<D>,
    /// `(hidden)`: the bias inside the reset gate's product, of a GRU.
    pub bias_hn: Option<Parameter<D>>,
}

impl<D: Device> Network<D> for RecurrentWeights<D> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight_ih", &self.weight_ih)?;
        visitor.parameter("weight_hh", &self.weight_hh)?;
        visitor.parameter("bias", &self.bias)?;
        self.bias_hn.as_ref().map_or(Ok(()), |bias| visitor.parameter("bias_hn", bias))
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.parameter("weight_ih", &mut self.weight_ih)?;
        visitor.parameter("weight_hh", &mut self.weight_hh)?;
        visitor.parameter("bias", &mut self.bias)?;
        self.bias_hn.as_mut().map_or(Ok(()), |bias| visitor.parameter("bias_hn", bias))
    }
}

impl<D: Device> RecurrentWeights<D> {
    fn direction(&self, backward: bool) -> Direction<'_, D> {
        Direction {
            weight_ih: &self.weight_ih,
            weight_hh: &self.weight_hh,
            bias: &self.bias,
            bias_hn: self.bias_hn.as_ref(),
            backward,
        }
    }
}

/// The state of a recurrent layer before or after a batch of sequences: `hidden`, and for an LSTM `cell`, are `(batch,
/// hidden)`.
#[derive(Debug, Clone)]
pub struct RecurrentState<B: Dim, H: Dim, D: Device, T = dfdx::tensor::NoneTape> {
    /// The output of the last step.
    pub hidden: Tensor<(B, H), D, T>,
    /// The cell of an LSTM.
    pub cell: Option<Tensor<(B, H), D, T>>,
}

/// All that a recurrent layer gives.
#[derive(Debug)]
pub struct RecurrentOutput<B: Dim, L: Dim, H: Dim, D: Device, T> {
    /// The hidden state at every step, zero after a sequence's end. It carries the tape.
    pub outputs: Tensor<(B, L, H), D, T>,
    /// The state after the last step of each sequence. Its tapes are empty: combine what you make of it with something
    /// made of `outputs`, or take [`into_last`](Self::into_last).
    pub state: RecurrentState<B, H, D, T>,
}

impl<B: Dim, L: Dim, H: Dim, D: Device, T: Tape<f32, D>> RecurrentOutput<B, L, H, D, T> {
    /// The hidden state after the last step of each sequence, with the tape: a sentence's vector.
    pub fn into_last(self) -> Tensor<(B, H), D, T> {
        let (_, tape) = self.outputs.split_tape();
        let (hidden, _) = self.state.hidden.split_tape();
        hidden.put_tape(tape)
    }
}

/// The layers differ in their gates, so one text serves both.
macro_rules! recurrent {
    (
        $(#[$attribute:meta])* $Layer:ident, $(#[$builder_attribute:meta])* $Builder:ident,
        $(#[$both_attribute:meta])* $Both:ident, $name:literal, $cell:expr
    ) => {
        $(#[$attribute])*
        #[derive(Debug)]
        pub struct $Layer<D: Device, I: Dim = usize, H: Dim = usize> {
            /// The trained tensors.
            pub weights: RecurrentWeights<D>,
            inputs: I,
            hidden: H,
            input_gradient: bool,
        }

        $(#[$both_attribute])*
        #[derive(Debug)]
        pub struct $Both<D: Device, I: Dim = usize, H: Dim = usize> {
            /// The trained tensors of the direction from the first step to the last.
            pub forward: RecurrentWeights<D>,
            /// The trained tensors of the direction from the last step to the first.
            pub backward: RecurrentWeights<D>,
            inputs: I,
            hidden: H,
            input_gradient: bool,
        }

        $(#[$builder_attribute])*
        #[derive(Debug, Clone)]
        pub struct $Builder<D, I: Dim, H: Dim> {
            inputs: I,
            hidden: H,
            options: Options,
            device: PhantomData<fn(&D)>,
        }

        impl<D: Device, I: Dim, H: Dim> $Layer<D, I, H> {
            /// A layer with Glorot-uniform input weights, recurrent weights uniform in ±1/sqrt(hidden), and zero biases.
            ///
            /// # Errors
            /// When a size is 0 or memory runs out.
            pub fn new(device: &D, inputs: I, hidden: H) -> ModelResult<Self> {
                Self::builder(inputs, hidden).build(device)
            }

            /// A layer with options.
            pub fn builder(inputs: I, hidden: H) -> $Builder<D, I, H> {
                $Builder { inputs, hidden, options: Options::default(), device: PhantomData }
            }

            /// Runs over sequences of `(batch, length, inputs)` of which the first `lengths` steps are real, from a state
            /// or from zeros.
            ///
            /// # Errors
            /// When a size or length is impossible.
            pub fn run<B: Dim, L: Dim, T: Tape<f32, D>>(
                &self,
                x: Tensor<(B, L, I), D, T>,
                lengths: &[usize],
                state: Option<RecurrentState<B, H, D, T>>,
            ) -> ModelResult<RecurrentOutput<B, L, H, D, T>> {
                let (batch, length, _) = *x.shape();
                let run = run(
                    x,
                    &[self.weights.direction(false)],
                    ($name, $cell, self.inputs.size(), self.hidden.size(), self.input_gradient),
                    lengths,
                    state.into_iter().collect(),
                )?;
                let outputs = run.outputs.try_reshape_like(&(batch, length, self.hidden))?;
                let state = last_state(&run.states, 0, batch, self.hidden)?;
                Ok(RecurrentOutput { outputs, state })
            }
        }

        impl<D: Device, I: Dim, H: Dim> $Both<D, I, H> {
            /// A layer with `hidden` units in each direction; starts as the one-directional layer does.
            ///
            /// # Errors
            /// When a size is 0 or memory runs out.
            pub fn new(device: &D, inputs: I, hidden: H) -> ModelResult<Self> {
                Self::builder(inputs, hidden).build_bidirectional(device)
            }

            /// A layer with options, to be made by `build_bidirectional`.
            pub fn builder(inputs: I, hidden: H) -> $Builder<D, I, H> {
                $Builder { inputs, hidden, options: Options::default(), device: PhantomData }
            }

            /// Runs over sequences of `(batch, length, inputs)` of which the first `lengths` steps are real, from
            /// the states of the forward and the backward direction, or from zeros. The outputs have twice the hidden size, forward
            /// first. The states that it returns are again those of the two directions, each after its last step.
            ///
            /// # Errors
            /// When a size or length is impossible.
            #[allow(clippy::type_complexity)]
            pub fn run<B: Dim, L: Dim, T: Tape<f32, D>>(
                &self,
                x: Tensor<(B, L, I), D, T>,
                lengths: &[usize],
                states: Option<[RecurrentState<B, H, D, T>; 2]>,
            ) -> ModelResult<(Tensor<(B, L, usize), D, T>, [RecurrentState<B, H, D, T>; 2])> {
                let (batch, length, _) = *x.shape();
                let run = run::<B, L, I, H, D, T>(
                    x,
                    &[self.forward.direction(false), self.backward.direction(true)],
                    ($name, $cell, self.inputs.size(), self.hidden.size(), self.input_gradient),
                    lengths,
                    states.map(Vec::from).unwrap_or_default(),
                )?;
                let outputs = run.outputs.try_reshape_like(&(batch, length, 2 * self.hidden.size()))?;
                let forward = last_state(&run.states, 0, batch, self.hidden)?;
                let backward = last_state(&run.states, 1, batch, self.hidden)?;
                Ok((outputs, [forward, backward]))
            }
        }

        impl<D: Device, I: Dim, H: Dim> $Builder<D, I, H> {
            /// How the input weights start; [`Init::GlorotUniform`] by default.
            #[must_use]
            pub fn weights(mut self, init: Init) -> Self {
                self.options.weights = init;
                self
            }

            /// How the recurrent weights start; uniform in ±1/sqrt(hidden) by default.
            #[must_use]
            pub fn recurrent_weights(mut self, init: Init) -> Self {
                self.options.recurrent_weights = init;
                self
            }

            /// How the biases start; [`Init::Zeros`] by default.
            #[must_use]
            pub fn bias(mut self, init: Init) -> Self {
                self.options.bias = init;
                self
            }

            /// Computes no gradient for the input: faster when the input is data or a frozen embedding.
            #[must_use]
            pub fn without_input_gradient(mut self) -> Self {
                self.options.input_gradient = false;
                self
            }

            /// Makes the one-directional layer.
            ///
            /// # Errors
            /// When a size is 0, given values do not fit, or memory runs out.
            pub fn build(self, device: &D) -> ModelResult<$Layer<D, I, H>> {
                let weights = self.options.build(device, $name, $cell, self.inputs.size(), self.hidden.size())?;
                let input_gradient = self.options.input_gradient;
                Ok($Layer { weights, inputs: self.inputs, hidden: self.hidden, input_gradient })
            }

            /// Makes the layer that runs in both directions.
            ///
            /// # Errors
            /// When a size is 0, given values do not fit, or memory runs out.
            pub fn build_bidirectional(self, device: &D) -> ModelResult<$Both<D, I, H>> {
                let forward = self.options.build(device, $name, $cell, self.inputs.size(), self.hidden.size())?;
                let backward = self.options.build(device, $name, $cell, self.inputs.size(), self.hidden.size())?;
                let input_gradient = self.options.input_gradient;
                Ok($Both { forward, backward, inputs: self.inputs, hidden: self.hidden, input_gradient })
            }
        }

        impl<D: Device, I: Dim, H: Dim> Network<D> for $Layer<D, I, H> {
            fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
                self.weights.visit(visitor)
            }

            fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
                self.weights.visit_mut(visitor)
            }
        }

        impl<D: Device, I: Dim, H: Dim> Network<D> for $Both<D, I, H> {
            fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
                visitor.network("forward", &self.forward)?;
                visitor.network("backward", &self.backward)
            }

            fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
                visitor.network("forward", &mut self.forward)?;
                visitor.network("backward", &mut self.backward)
            }
        }

        /// Sequences that all have the full length.
        impl<B, L, I, H, D, T> Layer<Tensor<(B, L, I), D, T>> for $Layer<D, I, H>
        where
            B: Dim,
            L: Dim,
            I: Dim,
            H: Dim,
            D: Device,
            T: Tape<f32, D>,
        {
            type Output = Tensor<(B, L, H), D, T>;

            fn forward(&self, x: Tensor<(B, L, I), D, T>) -> ModelResult<Self::Output> {
                let lengths = vec![x.shape().1.size(); x.shape().0.size()];
                Ok(self.run(x, &lengths, None)?.outputs)
            }
        }

        /// Padded sequences with their lengths.
        impl<B, L, I, H, D, T> Layer<(Tensor<(B, L, I), D, T>, &[usize])> for $Layer<D, I, H>
        where
            B: Dim,
            L: Dim,
            I: Dim,
            H: Dim,
            D: Device,
            T: Tape<f32, D>,
        {
            type Output = Tensor<(B, L, H), D, T>;

            fn forward(&self, (x, lengths): (Tensor<(B, L, I), D, T>, &[usize])) -> ModelResult<Self::Output> {
                Ok(self.run(x, lengths, None)?.outputs)
            }
        }

        /// Sequences that all have the full length.
        impl<B, L, I, H, D, T> Layer<Tensor<(B, L, I), D, T>> for $Both<D, I, H>
        where
            B: Dim,
            L: Dim,
            I: Dim,
            H: Dim,
            D: Device,
            T: Tape<f32, D>,
        {
            type Output = Tensor<(B, L, usize), D, T>;

            fn forward(&self, x: Tensor<(B, L, I), D, T>) -> ModelResult<Self::Output> {
                let lengths = vec![x.shape().1.size(); x.shape().0.size()];
                Ok(self.run(x, &lengths, None)?.0)
            }
        }

        /// Padded sequences with their lengths.
        impl<B, L, I, H, D, T> Layer<(Tensor<(B, L, I), D, T>, &[usize])> for $Both<D, I, H>
        where
            B: Dim,
            L: Dim,
            I: Dim,
            H: Dim,
            D: Device,
            T: Tape<f32, D>,
        {
            type Output = Tensor<(B, L, usize), D, T>;

            fn forward(&self, (x, lengths): (Tensor<(B, L, I), D, T>, &[usize])) -> ModelResult<Self::Output> {
                Ok(self.run(x, lengths, None)?.0)
            }
        }
    };
}

recurrent!(
    /// A long short-term memory layer (Hochreiter and Schmidhuber 1997, with forget gates) over padded sequences `(batch,
    /// length, inputs)`; the output is `(batch, length, hidden)`, zero after a sequence's end. Gates come in PyTorch's order:
    /// input, forget, cell, output.
    ///
    /// ```
    /// use elistimator::nn::{Layer, Lstm, Tensor};
    /// use elistimator::{Device, DeviceSpec, device::Cpu};
    /// # fn main() -> elistimator::ModelResult<()> {
    /// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
    /// let lstm = Lstm::new(&device, 3, 5)?;
    /// let x: Tensor<(usize, usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.1; 24], (2, 4, 3));
    /// let run = lstm.run(x, &[4, 2], None)?;
    /// let sentences = run.into_last(); // (2, 5)
    /// # drop(sentences);
    /// # Ok(())
    /// # }
    /// ```
    Lstm,
    /// The options of an LSTM before it is built.
    LstmBuilder,
    /// An LSTM in both directions over padded sequences `(batch, length, inputs)`; the output is `(batch, length, 2 * hidden)`,
    /// zero after a sequence's end. The backward direction starts at each sequence's own end.
    ///
    /// ```
    /// use elistimator::nn::{BiLstm, Layer, Tensor};
    /// use elistimator::{Device, DeviceSpec, device::Cpu};
    /// # fn main() -> elistimator::ModelResult<()> {
    /// let device = Cpu::open(DeviceSpec::Cpu, 7)?;
    /// let lstm = BiLstm::new(&device, 3, 5)?;
    /// let x: Tensor<(usize, usize, usize), Cpu> = dfdx::tensor::TensorFromVec::tensor_from_vec(&device, vec![0.1; 24], (2, 4, 3));
    /// let lengths: &[usize] = &[4, 2];
    /// let outputs = lstm.forward((x, lengths))?; // (2, 4, 10)
    /// # drop(outputs);
    /// # Ok(())
    /// # }
    /// ```
    BiLstm, "LSTM", Cell::Lstm
);

recurrent!(
    /// A gated recurrent layer (Cho et al. 2014, in the form of cuDNN and PyTorch) over padded sequences `(batch, length,
    /// inputs)`; the output is `(batch, length, hidden)`, zero after a sequence's end. Gates come in the order reset, update,
    /// new.
    ///
    /// ```
    /// use elistimator::nn::Gru;
    /// use elistimator::{Device, DeviceSpec, device::Cpu};
    /// # fn main() -> elistimator::ModelResult<()> {
    /// let gru = Gru::new(&Cpu::open(DeviceSpec::Cpu, 7)?, 3, 5)?;
    /// # drop(gru);
    /// # Ok(())
    /// # }
    /// ```
    Gru,
    /// The options of a GRU before it is built.
    GruBuilder,
    /// A GRU in both directions; see [`Gru`] and [`BiLstm`].
    BiGru, "GRU", Cell::Gru
);

/// How the tensors of a recurrent layer start.
#[derive(Debug, Clone)]
struct Options {
    weights: Init,
    recurrent_weights: Init,
    bias: Init,
    input_gradient: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            weights: Init::GlorotUniform,
            recurrent_weights: Init::FanInUniform,
            bias: Init::Zeros,
            input_gradient: true,
        }
    }
}

impl Options {
    fn build<D: Device>(
        &self,
        device: &D,
        name: &str,
        cell: Cell,
        inputs: usize,
        hidden: usize,
    ) -> ModelResult<RecurrentWeights<D>> {
        if inputs == 0 || hidden == 0 {
            let message = format!("{name}: found {inputs} inputs and {hidden} units, expected at least 1 of each");
            return Err(ModelError::msg(message));
        }
        let rows = cell.gates().saturating_mul(hidden);
        // Fans are those of one gate.
        Ok(RecurrentWeights {
            weight_ih: Parameter::new(device, &[rows, inputs], &self.weights, (inputs, hidden))?,
            weight_hh: Parameter::new(device, &[rows, hidden], &self.recurrent_weights, (hidden, hidden))?,
            bias: Parameter::new(device, &[rows], &self.bias, (inputs, hidden))?,
            bias_hn: match cell {
                Cell::Lstm => None,
                Cell::Gru => Some(Parameter::new(device, &[hidden], &Init::Zeros, (hidden, hidden))?),
            },
        })
    }
}

fn run<B: Dim, L: Dim, I: Dim, H: Dim, D: Device, T: Tape<f32, D>>(
    x: Tensor<(B, L, I), D, T>,
    directions: &[Direction<'_, D>],
    (name, cell, inputs, hidden, input_gradient): (&str, Cell, usize, usize, bool),
    lengths: &[usize],
    states: Vec<RecurrentState<B, H, D, T>>,
) -> ModelResult<RecurrentRun<D, T>> {
    let (batch, length, found) = (x.shape().0.size(), x.shape().1.size(), x.shape().2.size());
    if found != inputs {
        return Err(ModelError::msg(format!(
            "{name}: found an input of shape [{batch}, {length}, {found}], expected {inputs} values per step"
        )));
    }
    check_lengths(name, lengths, batch, length)?;
    let (x, mut tape) = x.try_reshape_like(&(batch, length, inputs))?.split_tape();
    let mut initial = Vec::new();
    for state in states {
        let mut take = |tensor: Tensor<(B, H), D, T>| -> ModelResult<_> {
            let dims = (tensor.shape().0.size(), tensor.shape().1.size());
            if dims != (batch, hidden) {
                return Err(ModelError::msg(format!(
                    "{name}: found an initial state of shape {dims:?}, expected {:?}",
                    (batch, hidden)
                )));
            }
            let (tensor, state_tape) = tensor.try_reshape_like(&dims)?.split_tape();
            tape = std::mem::take(&mut tape).merge(state_tape);
            Ok(tensor)
        };
        let first = take(state.hidden)?;
        let cell_state = state.cell.map(&mut take).transpose()?;
        if (cell == Cell::Lstm) != cell_state.is_some() {
            return Err(ModelError::msg(format!("{name}: found an initial state of another kind of layer")));
        }
        initial.push((first, cell_state));
    }
    let recurrence = Recurrence { cell, hidden, lengths, input_gradient };
    D::recurrent(x.put_tape(tape), directions, initial, &recurrence)
}

fn last_state<B: Dim, H: Dim, D: Device, T: Tape<f32, D>>(
    states: &[State<D>],
    direction: usize,
    batch: B,
    hidden: H,
) -> ModelResult<RecurrentState<B, H, D, T>> {
    let (last, cell) = &states[direction];
    let shaped = |tensor: &Tensor<(usize, usize), D>| -> ModelResult<_> {
        Ok(tensor.retaped::<T>().try_reshape_like(&(batch, hidden))?)
    };
    Ok(RecurrentState { hidden: shaped(last)?, cell: cell.as_ref().map(shaped).transpose()? })
}

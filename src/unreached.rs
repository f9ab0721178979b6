//! Parameters that no loss reaches: a forward pass that lost its tape looks like training, and leaves them as they began.

use std::collections::BTreeSet;

use dfdx::tensor_ops::TryStack;

use crate::nn::{Gradients, Network, Part, Tensor, Visitor};
use crate::{Device, Error, ErrorKind, ModelResult};

/// For how many steps a gradient may be zero before that is said: weights that start at zero hold back what lies before them for
/// a step or two, and some losses come only every few steps.
const PATIENCE: u32 = 64;

/// Most names in the warning.
const MOST_NAMES: usize = 10;

/// Looks at the first steps' gradients. Usually the first step reaches all, and it costs nothing from then on. Where the host
/// waits for what it reads, that is in the first and in the last of these steps only, and all in one transfer.
pub(crate) struct Unreached<D: Device> {
    /// Those whose gradients have all been zero, as far as that was read; `None` before the first step.
    names: Option<Vec<String>>,
    /// What was not read yet: names and the sums of squares of their gradients.
    unread: Vec<(String, Tensor<(), D>)>,
    steps: u32,
}

impl<D: Device> Default for Unreached<D> {
    fn default() -> Self {
        Self { names: None, unread: Vec::new(), steps: 0 }
    }
}

impl<D: Device> Unreached<D> {
    /// Takes in the gradients of a step before they are applied, each with the prefix of the parameters they are for.
    pub(crate) fn look<N: Network<D>>(
        &mut self,
        net: &N,
        gradients: &mut [(Gradients<D>, Option<String>)],
        is_frozen: impl Fn(&str) -> bool,
    ) -> ModelResult<()> {
        if self.names.as_ref().is_some_and(Vec::is_empty) {
            return Ok(());
        }
        let mut zero = Vec::new();
        net.visit(&mut Visitor::new(&mut |name, part| {
            let Part::Parameter(parameter) = part else { return Ok(()) };
            let is_watched = self.names.as_ref().is_none_or(|names| names.iter().any(|watched| watched == name));
            if !is_watched || !parameter.is_trainable() || is_frozen(name) {
                return Ok(());
            }
            for (gradients, scope) in gradients.iter_mut() {
                if scope.as_ref().is_some_and(|scope| !name.starts_with(scope.as_str())) {
                    continue;
                }
                let squares = D::square_sum(parameter, gradients)?;
                if !D::READS_ARE_FREE {
                    self.unread.push((name.to_owned(), squares));
                } else if squares.as_vec() != [0.0] {
                    return Ok(());
                }
            }
            zero.push(name.to_owned());
            Ok(())
        }))?;
        self.steps += 1;
        if self.steps == 1 || self.steps == PATIENCE {
            let (names, squares): (Vec<_>, Vec<_>) = std::mem::take(&mut self.unread).into_iter().unzip();
            if !squares.is_empty() {
                let reached = squares.try_stack()?.as_vec();
                let reached = names.iter().zip(reached).filter(|(_, squares)| *squares != 0.0);
                let reached: BTreeSet<&String> = reached.map(|(name, _)| name).collect();
                zero.retain(|name| !reached.contains(name));
            }
        }
        if zero.is_empty() {
            self.unread = Vec::new();
        }
        self.names = Some(zero);
        Ok(())
    }

    /// What is to be said, once: these parameters have waited long enough.
    pub(crate) fn take_warning(&mut self) -> Option<Error> {
        let names = self.names.as_mut().filter(|_| self.steps == PATIENCE).map(std::mem::take)?;
        if names.is_empty() {
            return None;
        }
        let more = match names.len().saturating_sub(MOST_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let names = names[..names.len().min(MOST_NAMES)].join(", ");
        let message = format!(
            "no loss has reached {names}{more} in {PATIENCE} steps: the gradients were zero in all of them. Begin a tape where they \
             come in (`ids.traced(step.recorder()?)` before an embedding), or freeze them if they are not to be trained"
        );
        Some(Error::new(ErrorKind::Model, message))
    }
}

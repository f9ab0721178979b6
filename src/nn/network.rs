//! Networks as trees of named parameters.

use crate::nn::{Parameter, RandomStream};
use crate::{Device, ModelResult};

/// Anything that owns parameters: layers, tuples and `Vec`s of networks, [`network!`](crate::network) structs, and dfdx's
/// own modules inside [`Dfdx`](crate::nn::Dfdx). Write it by hand for a layer of your own: hand every parameter to the
/// visitor under a fixed name, in a fixed order. The names are those of the tensors on disk (`conv1.weight`), so a layer
/// inserted elsewhere renames nothing.
pub trait Network<D: Device> {
    /// Shows every part to the visitor.
    ///
    /// # Errors
    /// Those of the visitor, passed on.
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()>;

    /// The same parts in the same order, to be changed.
    ///
    /// # Errors
    /// Those of the visitor, passed on.
    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()>;
}

/// What a network is made of, as a visitor sees it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Part<'a, D: Device> {
    /// A tensor, trainable or not.
    Parameter(&'a Parameter<D>),
    /// A source of random bits whose count of calls is saved.
    Random(&'a RandomStream),
}

/// What a network is made of, to be changed.
#[derive(Debug)]
#[non_exhaustive]
pub enum PartMut<'a, D: Device> {
    /// A tensor, trainable or not.
    Parameter(&'a mut Parameter<D>),
    /// A source of random bits whose count of calls is saved.
    Random(&'a RandomStream),
}

type Callback<'v, D> = dyn FnMut(&str, Part<'_, D>) -> ModelResult<()> + 'v;
type CallbackMut<'v, D> = dyn FnMut(&str, PartMut<'_, D>) -> ModelResult<()> + 'v;

/// Walks a network and calls a closure with the full name of each part.
pub struct Visitor<'v, D: Device> {
    path: String,
    callback: &'v mut Callback<'v, D>,
}

/// Walks a network and calls a closure with the full name of each part, which it may change.
pub struct VisitorMut<'v, D: Device> {
    path: String,
    callback: &'v mut CallbackMut<'v, D>,
}

/// The two visitors differ only in what they borrow.
macro_rules! visitor {
    ($Visitor:ident, $Callback:ident, $Part:ident, $visit:ident, $($mutable:tt)?) => {
        impl<'v, D: Device> $Visitor<'v, D> {
            /// A visitor that calls `callback` with the name and the part, and stops at its first error.
            pub fn new(callback: &'v mut $Callback<'v, D>) -> Self {
                Self { path: String::new(), callback }
            }

            /// Visits a network under a name of this one.
            ///
            /// # Errors
            /// Those of the visitor's callback.
            pub fn network<N: Network<D> + ?Sized>(&mut self, name: &str, network: &$($mutable)? N) -> ModelResult<()> {
                let outer = self.enter(name);
                let result = network.$visit(self);
                self.path.truncate(outer);
                result
            }

            /// Shows a parameter.
            ///
            /// # Errors
            /// Those of the visitor's callback.
            pub fn parameter(&mut self, name: &str, parameter: &$($mutable)? Parameter<D>) -> ModelResult<()> {
                let outer = self.enter(name);
                let result = (self.callback)(&self.path, $Part::Parameter(parameter));
                self.path.truncate(outer);
                result
            }

            /// Shows a source of random bits.
            ///
            /// # Errors
            /// Those of the visitor's callback.
            pub fn random(&mut self, name: &str, stream: &RandomStream) -> ModelResult<()> {
                let outer = self.enter(name);
                let result = (self.callback)(&self.path, $Part::Random(stream));
                self.path.truncate(outer);
                result
            }

            fn enter(&mut self, name: &str) -> usize {
                let outer = self.path.len();
                if outer > 0 && !name.is_empty() {
                    self.path.push('.');
                }
                self.path.push_str(name);
                outer
            }
        }

        impl<D: Device> std::fmt::Debug for $Visitor<'_, D> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{} at {:?}", stringify!($Visitor), self.path)
            }
        }
    };
}

visitor!(Visitor, Callback, Part, visit,);
visitor!(VisitorMut, CallbackMut, PartMut, visit_mut, mut);

impl<D: Device, N: Network<D>> Network<D> for Vec<N> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        self.iter().enumerate().try_for_each(|(index, network)| visitor.network(&index.to_string(), network))
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        self.iter_mut().enumerate().try_for_each(|(index, network)| visitor.network(&index.to_string(), network))
    }
}

impl<D: Device, N: Network<D>> Network<D> for Option<N> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        self.as_ref().map_or(Ok(()), |network| network.visit(visitor))
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        self.as_mut().map_or(Ok(()), |network| network.visit_mut(visitor))
    }
}

impl<D: Device, N: Network<D> + ?Sized> Network<D> for Box<N> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        (**self).visit(visitor)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        (**self).visit_mut(visitor)
    }
}

/// Plain values in a network's struct (sizes, flags) have no parameters.
macro_rules! without_parts {
    ($($T:ty),*) => {$(
        impl<D: Device> Network<D> for $T {
            fn visit(&self, _: &mut Visitor<'_, D>) -> ModelResult<()> {
                Ok(())
            }

            fn visit_mut(&mut self, _: &mut VisitorMut<'_, D>) -> ModelResult<()> {
                Ok(())
            }
        }
    )*};
}

without_parts!((), bool, usize, f32, f64, String);

macro_rules! tuples {
    ($($N:ident $index:tt),+) => {
        impl<D: Device, $($N: Network<D>),+> Network<D> for ($($N,)+) {
            fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
                $(visitor.network(stringify!($index), &self.$index)?;)+
                Ok(())
            }

            fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
                $(visitor.network(stringify!($index), &mut self.$index)?;)+
                Ok(())
            }
        }
    };
}

tuples!(A 0);
tuples!(A 0, B 1);
tuples!(A 0, B 1, C 2);
tuples!(A 0, B 1, C 2, E 3);
tuples!(A 0, B 1, C 2, E 3, F 4);
tuples!(A 0, B 1, C 2, E 3, F 4, G 5);
tuples!(A 0, B 1, C 2, E 3, F 4, G 5, H 6);
tuples!(A 0, B 1, C 2, E 3, F 4, G 5, H 6, I 7);

/// Declares a network as a struct with named fields, which become the names on disk:
///
/// ```
/// use elistimator::nn::{Parameter, Init};
/// use elistimator::{network, Device};
///
/// network! {
///     /// A line through points.
///     pub struct Line<D> {
///         slope: Parameter<D>,
///         intercept: Parameter<D>,
///     }
/// }
/// ```
///
/// The parameter in angle brackets is the device; the struct gets an implementation of [`Network`](crate::nn::Network).
#[macro_export]
macro_rules! network {
    ($(
        $(#[$attribute:meta])*
        $visibility:vis struct $Name:ident<$D:ident> {
            $($(#[$field_attribute:meta])* $field_visibility:vis $field:ident: $Type:ty),* $(,)?
        }
    )*) => {$(
        $(#[$attribute])*
        $visibility struct $Name<$D: $crate::Device> {
            $($(#[$field_attribute])* $field_visibility $field: $Type,)*
        }

        impl<$D: $crate::Device> $crate::nn::Network<$D> for $Name<$D> {
            fn visit(&self, visitor: &mut $crate::nn::Visitor<'_, $D>) -> $crate::ModelResult<()> {
                $(visitor.network(stringify!($field).trim_start_matches("r#"), &self.$field)?;)*
                Ok(())
            }

            fn visit_mut(&mut self, visitor: &mut $crate::nn::VisitorMut<'_, $D>) -> $crate::ModelResult<()> {
                $(visitor.network(stringify!($field).trim_start_matches("r#"), &mut self.$field)?;)*
                Ok(())
            }
        }
    )*};
}

/// A bare parameter is a network of one tensor without a name of its own.
impl<D: Device> Network<D> for Parameter<D> {
    fn visit(&self, visitor: &mut Visitor<'_, D>) -> ModelResult<()> {
        visitor.parameter("", self)
    }

    fn visit_mut(&mut self, visitor: &mut VisitorMut<'_, D>) -> ModelResult<()> {
        visitor.parameter("", self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Cpu, DeviceSpec};

    network! {
        struct Inner<D> { weight: Parameter<D>, width: usize }
        struct Outer<D> { first: Inner<D>, pairs: Vec<(Parameter<D>, Parameter<D>)> }
    }

    fn parameter(device: &Cpu) -> Parameter<Cpu> {
        Parameter::from_vec(device, &[2], vec![1.0, 2.0]).unwrap()
    }

    #[test]
    fn names_follow_the_fields() {
        let device = Cpu::open(DeviceSpec::Cpu, 0).unwrap();
        let mut outer = Outer {
            first: Inner { weight: parameter(&device), width: 2 },
            pairs: vec![(parameter(&device), parameter(&device))],
        };
        assert_eq!(outer.first.width, 2);
        let mut names = Vec::new();
        outer
            .visit(&mut Visitor::new(&mut |name, _| {
                names.push(name.to_owned());
                Ok(())
            }))
            .unwrap();
        assert_eq!(names, ["first.weight", "pairs.0.0", "pairs.0.1"]);
        let mut again = Vec::new();
        outer
            .visit_mut(&mut VisitorMut::new(&mut |name, _| {
                again.push(name.to_owned());
                Ok(())
            }))
            .unwrap();
        assert_eq!(again, names);
    }
}

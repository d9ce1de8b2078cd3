//! What encoder and decoder layers are made of: linears that share an input, side by side, with what clients add to
//! them, and norms. Two ways forward: over frozen weights by operations that compute no gradient for them, and over
//! weights that train by operations composed of Burn's.

use bonfire_kernels::{
    Activated, Arithmetic, AttentionLayout, DropMask, LowRank, RowKeys, Segments, adapted_linear_and_input,
    adapted_linear_composed, adapted_linear_gelu, adapted_linear_of_gelu, add_norm, dropped_update, product,
    rms_norm_and_input,
};
use burn::tensor::module::layer_norm;
use burn::tensor::{FloatDType, Int, Tensor};

use crate::description::{DropRate, Linears, NormForm, NormPlace};
use crate::dropout::{Place, dropped};
use crate::noise::perturbed;
use crate::rotary::Angles;
use crate::{Architecture, Dropout, ModelInfo, NoiseSigns, Stored, TargetKind};

/// A linear.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    /// `[d_in, d_out]`.
    pub weight: Tensor<2>,
    /// `[d_out]`.
    pub bias: Option<Tensor<1>>,
}

/// One of the linears of a [`Group`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub kind: TargetKind,
    /// Output features.
    pub width: usize,
    /// Whether checkpoints hold a bias.
    pub bias: bool,
}

/// Linears of one input as one: `[d_in, Σ d_out]`.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub linear: Linear,
    pub parts: Vec<Part>,
}

/// A normalisation.
#[derive(Clone, Debug)]
pub(crate) struct Norm {
    pub form: NormForm,
    pub gamma: Tensor<1>,
    /// Of layer norms with a bias alone.
    pub beta: Option<Tensor<1>>,
}

/// A layer: its linears in the order of the forward pass, and its norms by their places.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub groups: Vec<Group>,
    pub norms: [Option<Norm>; NormPlace::COUNT],
}

/// What is done with each tensor: its name, how files store it, and itself as `[in, out]` or `[1, n]`.
pub(crate) type Visit<'v> = dyn FnMut(String, Stored, Tensor<2>) -> Tensor<2> + 'v;

/// Visits a vector as a matrix of one row.
fn visit_vector(name: String, t: &Tensor<1>, visit: &mut Visit) -> Tensor<1> {
    visit(name, Stored::AsVector, t.clone().unsqueeze_dim(0)).squeeze_dim(0)
}

impl Linear {
    pub fn map(&self, module: &str, visit: &mut Visit) -> Linear {
        let weight = visit(format!("{module}.weight"), Stored::Transposed, self.weight.clone());
        let bias = self.bias.as_ref().map(|bias| visit_vector(format!("{module}.bias"), bias, visit));
        Linear { weight, bias }
    }

    /// `x·W + b`, without adapters.
    pub fn forward(&self, x: Tensor<2>, arithmetic: Arithmetic) -> Tensor<2> {
        let y = product(x, self.weight.clone(), arithmetic); // [T, d_out]
        match &self.bias {
            Some(bias) => y + bias.clone().unsqueeze_dim(0),
            None => y,
        }
    }
}

impl Group {
    /// Linears of one input side by side.
    pub fn of(linears: Vec<(Part, Linear)>) -> Group {
        let parts = linears.iter().map(|(part, _)| *part).collect();
        // Where one of them has a bias, the others' is zero.
        let has_bias = linears.iter().any(|(_, linear)| linear.bias.is_some());
        let zeros = |weight: &Tensor<2>| Tensor::zeros([weight.dims()[1]], (&weight.device(), weight.dtype()));
        let biases = linears.iter().map(|(_, linear)| linear.bias.clone().unwrap_or_else(|| zeros(&linear.weight)));
        let bias = has_bias.then(|| Tensor::cat(biases.collect(), 0)); // [Σ d_out]
        let weight = Tensor::cat(linears.into_iter().map(|(_, linear)| linear.weight).collect(), 1); // [d_in, Σ d_out]
        Group { linear: Linear { weight, bias }, parts }
    }

    /// The parts with the columns they write.
    fn columns(&self) -> impl Iterator<Item = (&Part, std::ops::Range<usize>)> {
        self.parts.iter().scan(0, |start, part| {
            let from = *start;
            *start += part.width;
            Some((part, from..*start))
        })
    }

    fn map(&self, layer: &str, linears: Linears, visit: &mut Visit) -> Group {
        let Linear { weight, bias } = &self.linear;
        let mut one = |((part, columns), (_, module)): ((&Part, std::ops::Range<usize>), &(TargetKind, &str))| {
            let module = format!("{layer}.{module}");
            let own = weight.clone().slice_dim(1, columns.clone());
            let weight = visit(format!("{module}.weight"), Stored::Transposed, own);
            let own = bias.as_ref().filter(|_| part.bias).map(|bias| bias.clone().slice_dim(0, columns));
            let bias = own.map(|own| visit_vector(format!("{module}.bias"), &own, visit));
            (*part, Linear { weight, bias })
        };
        let linears = self.columns().zip(linears).map(&mut one).collect();
        Group::of(linears)
    }

    /// The linears with what is added to them: `[T, d_in] -> [T, Σ d_out]`.
    pub fn apply(&self, x: Tensor<2>, context: &LayerContext, rows: &Rows) -> Tensor<2> {
        self.apply_and_input(x, context, rows).0
    }

    /// [`Group::apply`], and its input once more for the residual connection past it, whose gradient is then added where that of
    /// the input is computed.
    pub fn apply_and_input(&self, x: Tensor<2>, context: &LayerContext, rows: &Rows) -> (Tensor<2>, Tensor<2>) {
        let Linear { weight, bias } = self.linear.clone();
        let added = |part: &Part| context.added[part.kind as usize];
        let updates = self.updates(context);
        let (clients, arithmetic) = (rows.clients, context.arithmetic);
        let drops = rows.keys.filter(|_| context.dropout.adapter > 0.0 && !updates.is_empty());
        let (y, x) = if let Some(keys) = drops {
            assert!(!context.trained, "adapters are dropped over frozen weights");
            let (frozen, again) = adapted_linear_and_input(x.clone(), weight, bias, &[], clients, arithmetic);
            let mask = |kind| DropMask::new(keys, context.place(Place::Adapter(kind)), context.dropout.adapter);
            let parts = self.columns().filter_map(|(part, columns)| Some((part.kind, added(part).update?, columns)));
            let add = |y, (kind, update, columns)| dropped_update(y, x.clone(), (update, columns), clients, mask(kind));
            (parts.fold(frozen, add), again)
        } else if context.trained {
            (adapted_linear_composed(x.clone(), weight, bias, &updates, clients, arithmetic), x)
        } else {
            adapted_linear_and_input(x, weight, bias, &updates, clients, arithmetic)
        }; // [T, Σ d_out], [T, d_in]
        let Some(owners) = &rows.owners else { return (y, x) };
        let noise = self.parts.iter().map(|part| match added(part).noise {
            Some((bank, signs)) => perturbed(x.clone(), bank.clone(), signs, owners, context.arithmetic),
            None => Tensor::zeros([y.dims()[0], part.width], (&y.device(), y.dtype())),
        });
        (y.clone() + Tensor::cat(noise.collect(), 1), x)
    }

    /// [`Group::apply_and_input`] with GELU of the result.
    pub fn apply_gelu_and_input(&self, x: Tensor<2>, context: &LayerContext, rows: &Rows) -> (Activated, Tensor<2>) {
        if !self.in_one(context, rows) {
            let (y, x) = self.apply_and_input(x, context, rows);
            return (Activated::gelu(y), x);
        }
        let Linear { weight, bias } = self.linear.clone();
        adapted_linear_gelu(x, weight, bias, &self.updates(context), rows.clients, context.arithmetic)
    }

    /// [`Group::apply`] of what GELU gave: `[T, d_in] -> [T, Σ d_out]`.
    pub fn apply_to_gelu(&self, x: Activated, context: &LayerContext, rows: &Rows) -> Tensor<2> {
        if !self.in_one(context, rows) {
            return self.apply(x.after, context, rows);
        }
        let Linear { weight, bias } = self.linear.clone();
        adapted_linear_of_gelu(x, weight, bias, &self.updates(context), rows.clients, context.arithmetic)
    }

    /// Whether the weights with all that is added to them are one operation: they do not train, adapters read what the weights read, and
    /// there is no noise.
    fn in_one(&self, context: &LayerContext, rows: &Rows) -> bool {
        let drops = rows.keys.is_some() && context.dropout.adapter > 0.0;
        !context.trained && !drops && rows.owners.is_none()
    }

    /// The adapters with the columns they write.
    fn updates<'p>(&self, context: &LayerContext<'p>) -> Vec<(&'p LowRank, std::ops::Range<usize>)> {
        let update = |(part, columns): (&Part, _)| Some((context.added[part.kind as usize].update?, columns));
        self.columns().filter_map(update).collect()
    }
}

impl Norm {
    pub fn map(&self, module: &str, visit: &mut Visit) -> Norm {
        let gamma = visit_vector(format!("{module}.weight"), &self.gamma, visit);
        let beta = self.beta.as_ref().map(|beta| visit_vector(format!("{module}.bias"), beta, visit));
        Norm { form: self.form, gamma, beta }
    }

    /// The layer norm of `x + r`.
    pub fn after(&self, x: Tensor<2>, r: Tensor<2>, eps: f64, trained: bool) -> Tensor<2> {
        match (&self.beta, trained) {
            (Some(beta), false) => add_norm(x, r, self.gamma.clone(), beta.clone(), eps),
            _ => self.of(x + r, eps, trained),
        }
    }

    /// The norm of each row; `trained`: gradients reach its gain.
    pub fn of(&self, x: Tensor<2>, eps: f64, trained: bool) -> Tensor<2> {
        self.of_and_input(x, eps, trained).0
    }

    /// [`Norm::of`], and its input once more for the residual connection past it, whose gradient is then added where that of the
    /// input is computed.
    pub fn of_and_input(&self, x: Tensor<2>, eps: f64, trained: bool) -> (Tensor<2>, Tensor<2>) {
        match self.form {
            NormForm::Rms if !trained => rms_norm_and_input(x, self.gamma.clone(), 0.0, eps),
            NormForm::RmsFromOne if !trained => rms_norm_and_input(x, self.gamma.clone(), 1.0, eps),
            _ => (self.composed(x.clone(), eps), x),
        }
    }

    /// The norm of Burn's operations, so that gradients reach its gain.
    fn composed(&self, x: Tensor<2>, eps: f64) -> Tensor<2> {
        match self.form {
            NormForm::Layer | NormForm::LayerWithoutBias => layer_norm(x, self.gamma.clone(), self.beta.clone(), eps),
            // The product with the gain as Transformers rounds it: after the norm is, or before.
            NormForm::Rms => rms(x.clone(), eps).cast(x.dtype()) * self.gamma.clone().unsqueeze_dim(0),
            NormForm::RmsFromOne => {
                let gamma = self.gamma.clone().cast(FloatDType::F32).unsqueeze_dim(0) + 1.0;
                (rms(x.clone(), eps) * gamma).cast(x.dtype())
            }
        }
    }
}

/// Rows over their root mean square (arXiv 1910.07467), in f32 whatever `x` is.
fn rms(x: Tensor<2>, eps: f64) -> Tensor<2> {
    let wide = x.cast(FloatDType::F32);
    let mean = wide.clone().square().mean_dim(1); // [T, 1]
    wide * (mean + eps).sqrt().recip()
}

impl Layer {
    /// The same layer of what `visit` makes of its tensors; `name` is the layer's and `number` its place.
    pub fn map(&self, name: &str, number: usize, architecture: Architecture, visit: &mut Visit) -> Layer {
        let description = architecture.describe();
        let groups = self.groups.iter().zip(description.groups);
        let groups = groups.map(|(group, linears)| group.map(name, linears, visit)).collect();
        let mut norms = self.norms.clone();
        for (place, module) in description.norms_of(number) {
            let norm = &mut norms[place as usize];
            *norm = norm.as_ref().map(|norm| norm.map(&format!("{name}.{module}"), visit));
        }
        Layer { groups, norms }
    }

    /// The norm at a place, where the layer has one.
    pub fn norm(&self, place: NormPlace) -> Option<&Norm> {
        self.norms[place as usize].as_ref()
    }

    /// The group of a linear and its columns there.
    fn place(&self, kind: TargetKind) -> (usize, std::ops::Range<usize>) {
        let find = |(g, group): (usize, &Group)| {
            group.columns().find(|(part, _)| part.kind == kind).map(|(_, columns)| (g, columns))
        };
        self.groups.iter().enumerate().find_map(find).expect("every linear is in a group")
    }

    /// The weight of a linear `[d_in, d_out]`.
    pub fn weight(&self, kind: TargetKind) -> Tensor<2> {
        let (group, columns) = self.place(kind);
        self.groups[group].linear.weight.clone().slice_dim(1, columns)
    }

    /// Puts another weight in a linear's place.
    pub fn set_weight(&mut self, kind: TargetKind, weight: Tensor<2>) {
        let (group, columns) = self.place(kind);
        let all = &mut self.groups[group].linear.weight;
        *all = all.clone().slice_assign([0..weight.dims()[0], columns], weight);
    }
}

/// What is added to the products of one linear.
#[derive(Clone, Copy, Default)]
pub(crate) struct Added<'p> {
    pub update: Option<&'p LowRank>,
    /// The bank `[d_in, d_out]` and the clients' signs.
    pub noise: Option<(&'p Tensor<2>, &'p NoiseSigns)>,
}

/// Whose the rows of a matrix are.
pub(crate) struct Rows<'p> {
    pub clients: &'p Segments,
    /// The same row by row `[T]`, where noise asks for it.
    pub owners: Option<Tensor<1, Int>>,
    /// What the rows' masks are made of, where something is dropped.
    pub keys: Option<&'p RowKeys>,
}

/// What a layer needs besides its input.
pub(crate) struct LayerContext<'p> {
    pub info: &'p ModelInfo,
    /// The layer's number, and what is dropped where rows have keys.
    pub number: usize,
    pub dropout: Dropout,
    /// Whether gradients reach the weights.
    pub trained: bool,
    /// Of the products with the weights.
    pub arithmetic: Arithmetic,
    pub attention: &'p AttentionLayout,
    pub tokens: &'p Rows<'p>,
    /// What this layer's linears add, by [`TargetKind`].
    pub added: [Added<'p>; TargetKind::COUNT],
    /// In the last layer: the only tokens whose result is read, and which of them are which client's. What follows
    /// attention is left out for all others.
    pub read: Option<(&'p Tensor<1, Int>, &'p Rows<'p>)>,
    /// What attention adds to its scores for each sequence, where the architecture has such.
    pub added_scores: Option<&'p [Tensor<3>]>,
    /// Cosine and sine of every token's angles, where the layer turns queries and keys.
    pub angles: Option<&'p Angles>,
}

impl LayerContext<'_> {
    /// A place of this layer.
    pub fn place(&self, place: Place) -> u32 {
        place.number(Some(self.number))
    }

    /// `x` with a share dropped, where these rows have keys and the architecture drops something at this place.
    pub fn dropped(&self, x: Tensor<2>, place: Place, rate: Option<DropRate>, rows: &Rows) -> Tensor<2> {
        let share = match rate {
            Some(DropRate::Hidden) => self.dropout.model.hidden,
            Some(DropRate::Attention) => self.dropout.model.attention,
            None => 0.0,
        };
        dropped(x, rows.keys, self.place(place), share)
    }

    /// Of the layer's input and what attention gave: the rows that are read on.
    pub fn reading(&self, x: Tensor<2>, attended: Tensor<2>) -> (Tensor<2>, Tensor<2>, &Rows<'_>) {
        match self.read {
            Some((tokens, rows)) => (x.select(0, tokens.clone()), attended.select(0, tokens.clone()), rows), // [T, ..] -> [N, ..]
            None => (x, attended, self.tokens),
        }
    }
}

//! Several curves in one chart.

use super::tensor;
use crate::Result;
use protobuf::SingularPtrField;
use tensorboard_proto::{
    layout::{
        Category, Chart as ChartProto, Layout as LayoutProto, MarginChartContent, MarginChartContent_Series,
        MultilineChartContent,
    },
    plugin_text::TextPluginData,
    summary::Summary_Value,
};

/// Which curves TensorBoard's page of custom scalars puts together: the losses of a generator and its critic in one chart, a
/// mean between its bounds.
///
/// ```
/// use elistimator::summary::{Chart, Layout};
/// let layout = Layout::new()
///     .category("GAN", [Chart::lines("losses", ["loss/generator", "loss/critic"])])
///     .category("Accuracy", [Chart::margin("with bounds", "accuracy", "accuracy_low", "accuracy_high")]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Layout {
    categories: Vec<Category>,
}

/// One chart of a [`Layout`].
#[derive(Debug, Clone)]
pub struct Chart {
    chart: ChartProto,
}

impl Chart {
    /// The curves of all tags that one of these regular expressions matches from the beginning.
    pub fn lines<S: Into<String>>(title: &str, tags: impl IntoIterator<Item = S>) -> Self {
        let mut content = MultilineChartContent::new();
        content.set_tag(tags.into_iter().map(Into::into).collect());
        let mut chart = ChartProto::new();
        chart.set_title(title.to_owned());
        chart.set_multiline(content);
        Self { chart }
    }

    /// A curve within the area between a lower and an upper one; these are tags as they are.
    pub fn margin(title: &str, value: &str, lower: &str, upper: &str) -> Self {
        let mut series = MarginChartContent_Series::new();
        series.set_value(value.to_owned());
        series.set_lower(lower.to_owned());
        series.set_upper(upper.to_owned());
        let mut content = MarginChartContent::new();
        content.set_series(vec![series].into());
        let mut chart = ChartProto::new();
        chart.set_title(title.to_owned());
        chart.set_margin(content);
        Self { chart }
    }
}

impl Layout {
    /// Without any chart.
    pub fn new() -> Self {
        Self::default()
    }

    /// With a group of charts under a title.
    #[must_use]
    pub fn category(mut self, title: &str, charts: impl IntoIterator<Item = Chart>) -> Self {
        let mut category = Category::new();
        category.set_title(title.to_owned());
        category.set_chart(charts.into_iter().map(|chart| chart.chart).collect());
        self.categories.push(category);
        self
    }

    pub(super) fn value(&self) -> Result<Summary_Value> {
        let mut layout = LayoutProto::new();
        layout.set_category(self.categories.clone().into());
        // The page has no plugin data; an empty message of any kind is no bytes.
        let metadata = tensor::metadata("custom_scalars", &TextPluginData::new())?;
        let mut value = Summary_Value::new();
        value.set_tag("custom_scalars__config__".to_owned());
        value.metadata = SingularPtrField::some(metadata);
        value.set_tensor(tensor::string(tensor::encode(&layout)?));
        Ok(value)
    }
}

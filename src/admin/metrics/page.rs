//! Writing OpenMetrics text: one call for each family of samples.

use std::fmt::Error;

use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::super::moment::Moment;
use crate::metrics::{Count, ShardMetrics};

/// S4.67.
const DURATION_BUCKETS: [f64; 6] = [1.0, 5.0, 10.0, 30.0, 60.0, 120.0];

pub(super) const SECONDS: Option<Unit> = Some(Unit::Seconds);
pub(super) const BYTES: Option<Unit> = Some(Unit::Bytes);

pub(super) fn ratio() -> Option<Unit> {
    Some(Unit::Other("ratio".to_owned()))
}

pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

/// The page being written: one call for each family of samples.
pub(super) struct Page<'e, 'm> {
    pub(super) encoder: DescriptorEncoder<'e>,
    pub(super) moment: &'m Moment,
}

impl Page<'_, '_> {
    pub(super) fn gauge(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: impl EncodeGaugeValue,
    ) -> Result<(), Error> {
        self.encoder
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?
            .encode_gauge(&value)
    }

    pub(super) fn counter(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: impl EncodeCounterValue,
    ) -> Result<(), Error> {
        self.encoder
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    /// A count whose name has to stay as it is: a counter's sample would end in `_total`.
    pub(super) fn untyped(&mut self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.encoder.encode_descriptor(name, help, None, MetricType::Unknown)?.encode_gauge(&value)
    }

    /// The sum of a counter over the shards.
    pub(super) fn total(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        count: impl Fn(&ShardMetrics) -> &Count,
    ) -> Result<(), Error> {
        let sum = self.moment.sum(count);
        self.counter(name, unit, help, sum)
    }

    pub(super) fn gauge_by<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) -> Result<(), Error> {
        let mut family =
            self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (of, value) in samples {
            family.encode_family(&[(label, of)])?.encode_gauge(&value)?;
        }
        Ok(())
    }

    pub(super) fn counter_by<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        label: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) -> Result<(), Error> {
        let mut family =
            self.encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (of, value) in samples {
            family
                .encode_family(&[(label, of)])?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    pub(super) fn gauge_by_shard<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: impl Fn(&ShardMetrics) -> V,
    ) -> Result<(), Error> {
        let shards = self.moment.shards().iter().enumerate();
        let samples = shards.map(|(index, shard)| (index.to_string(), value(shard)));
        self.gauge_by(name, unit, help, "shard", samples)
    }

    pub(super) fn counter_by_shard<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: impl Fn(&ShardMetrics) -> V,
    ) -> Result<(), Error> {
        let shards = self.moment.shards().iter().enumerate();
        let samples = shards.map(|(index, shard)| (index.to_string(), value(shard)));
        self.counter_by(name, unit, help, "shard", samples)
    }

    /// A histogram whose buckets, each with its upper bound, are counted already.
    pub(super) fn histogram(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        sum: f64,
        buckets: &[(f64, u64)],
    ) -> Result<(), Error> {
        let count = buckets.iter().map(|(_, count)| count).sum();
        self.encoder
            .encode_descriptor(name, help, unit.as_ref(), MetricType::Histogram)?
            .encode_histogram::<NoLabelSet>(sum, count, buckets, None)
    }

    pub(super) fn durations(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        seconds: &[f64],
    ) -> Result<(), Error> {
        let mut buckets = DURATION_BUCKETS.map(|limit| (limit, 0)).to_vec();
        buckets.push((f64::INFINITY, 0));
        for duration in seconds {
            let bucket = buckets.iter_mut().find(|(limit, _)| duration <= limit);
            if let Some((_, count)) = bucket {
                *count += 1;
            }
        }
        self.histogram(name, unit, help, seconds.iter().sum(), &buckets)
    }
}

//! The macro that makes [`KEYS`](super::KEYS), [`Config`](super::Config) and its sections of the
//! entries of `table.rs`. An entry reads: doc comment; name, Rust type, default, rule, unit,
//! environment names of other systems.

macro_rules! keys {
    ($(
        $(#[doc = $section_about:literal])*
        $section:ident: $Section:ident {
            $(
                $(#[doc = $about:literal])*
                $field:ident: $Type:ty = $preset:expr, $rule:expr, $unit:literal
                    $(, also $legacy:expr)*;
            )*
        }
    )*) => {
        /// Every key, by section, in the order of the default file.
        pub const KEYS: &[Key] = &[$($(
            Key {
                name: concat!(stringify!($section), ".", stringify!($field)),
                preset: $preset,
                rule: $rule,
                unit: $unit,
                legacy: &[$($legacy),*],
                about: &[$($about),*],
            },
        )*)*];

        /// The sections in order, each with its explanation.
        pub(super) const SECTIONS: &[(&str, &[&str])] =
            &[$((stringify!($section), &[$($section_about),*])),*];

        $(
            $(#[doc = $section_about])*
            #[derive(Debug, Clone, PartialEq)]
            pub struct $Section {
                $(
                    $(#[doc = $about])*
                    #[doc = ""]
                    #[doc = concat!(
                        "Default `", stringify!($preset), "`, allowed `", stringify!($rule),
                        "`, unit: ", $unit, "."
                    )]
                    pub $field: $Type,
                )*
            }
        )*

        /// The configuration in force: one struct for each section, one field for each key.
        ///
        /// Values obey their ranges. Those that stand for another key's value, and caps longer
        /// than the deadline they are part of, have been replaced.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $(
                $(#[doc = $section_about])*
                pub $section: $Section,
            )*
            /// What the operator should know although nothing is refused; to be logged at the
            /// start.
            pub warnings: Vec<String>,
            /// Where each value comes from, in the order of [`KEYS`].
            pub(super) origins: Vec<Origin>,
        }

        impl Config {
            /// Makes the typed form of `values`, one for each key in the order of [`KEYS`].
            pub(super) fn from_values(values: Vec<Value>, origins: Vec<Origin>) -> Config {
                assert_eq!(values.len(), KEYS.len(), "one value for each key");
                let mut values = values.into_iter();
                Config {
                    $($section: $Section {
                        $($field: next(&mut values),)*
                    },)*
                    warnings: Vec::new(),
                    origins,
                }
            }

            /// The values in the order of [`KEYS`], secrets included.
            pub(super) fn values(&self) -> Vec<Value> {
                vec![$($(self.$section.$field.to_value(),)*)*]
            }
        }
    };
}

pub(super) use keys;

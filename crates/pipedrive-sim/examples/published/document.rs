//! An `OpenAPI` document: its operations, their parameters and the shape of their success.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

use crate::strict;

#[derive(Debug)]
pub(crate) struct Document(Value);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
}

impl From<Value> for Document {
    fn from(value: Value) -> Self {
        Self(value)
    }
}

impl Document {
    pub(crate) fn read(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
        let value =
            serde_saphyr::from_str(&text).with_context(|| format!("parse {}", file.display()))?;
        Ok(Self(value))
    }

    fn operation(&self, Operation { method, path }: Operation) -> anyhow::Result<&Value> {
        self.0
            .get("paths")
            .and_then(|paths| paths.get(path)?.get(method))
            .with_context(|| format!("{method} {path} is not in the document"))
    }

    pub(crate) fn parameters(&self, operation: Operation) -> anyhow::Result<Vec<String>> {
        let operation = self.operation(operation)?;
        let list = operation.get("parameters").and_then(Value::as_array);
        let names = list
            .into_iter()
            .flatten()
            .filter_map(|parameter| parameter.get("name")?.as_str());
        Ok(names.map(str::to_owned).collect())
    }

    /// Where an answer differs from what the document says about success.
    pub(crate) fn mismatches(
        &self,
        operation: Operation,
        answer: &Value,
    ) -> anyhow::Result<Vec<String>> {
        let content = self
            .operation(operation)?
            .get("responses")
            .and_then(|responses| {
                responses
                    .get("200")?
                    .get("content")?
                    .get("application/json")
            })
            .with_context(|| format!("{operation:?} has no JSON for 200"))?;
        let schema = content
            .get("schema")
            .with_context(|| format!("{operation:?} has no schema"))?;
        strict::mismatches(&self.0, schema, content.get("example"), answer)
    }
}

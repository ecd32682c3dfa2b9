//! Which method a REST call means.

use std::{collections::HashMap, sync::Arc};

use http::Method as Verb;

use crate::schema::{Binding, Method, Schema, SchemaError, Segment};

/// All REST addresses, by verb and number of path segments.
#[derive(Debug)]
pub(super) struct Router {
    routes: HashMap<(Verb, usize), Vec<Route>>,
}

#[derive(Debug)]
struct Route {
    method: Arc<Method>,
    binding: usize,
}

/// A REST call's method, its binding, and the path's values.
#[derive(Debug)]
pub(super) struct Match<'a> {
    pub(super) method: &'a Arc<Method>,
    pub(super) binding: &'a Binding,
    pub(super) values: Vec<(&'a str, &'a str)>,
}

impl Router {
    /// Lays out the addresses; two methods at one address stop the start.
    pub(super) fn new(schema: &Schema) -> Result<Self, SchemaError> {
        let mut routes: HashMap<(Verb, usize), Vec<Route>> = HashMap::new();
        let mut taken: HashMap<(Verb, Vec<Option<String>>), String> = HashMap::new();
        for method in &schema.methods {
            for (index, binding) in method.bindings.iter().enumerate() {
                let form: Vec<_> = binding.template.segments.iter().map(literal).collect();
                let name = method.descriptor.full_name().to_owned();
                if let Some(other) = taken.insert((binding.verb.clone(), form), name.clone()) {
                    return Err(SchemaError::rule(name, format!("has the same REST address as {other}")));
                }
                let place = (binding.verb.clone(), binding.template.segments.len());
                routes.entry(place).or_default().push(Route { method: Arc::clone(method), binding: index });
            }
        }
        for list in routes.values_mut() {
            // Literal segments before fields, from the left: /budgets/status wins over /budgets/{id}.
            list.sort_by_key(|route| {
                let segments = &route.method.bindings[route.binding].template.segments;
                segments.iter().map(|segment| literal(segment).is_none()).collect::<Vec<_>>()
            });
        }
        Ok(Self { routes })
    }

    /// The method at a path.
    pub(super) fn find<'a>(&'a self, verb: &Verb, path: &'a str) -> Option<Match<'a>> {
        let segments: Vec<_> = path.strip_prefix('/')?.split('/').collect();
        let candidates = self.routes.get(&(verb.clone(), segments.len()))?;
        candidates.iter().find_map(|route| {
            let binding = &route.method.bindings[route.binding];
            let values = binding.template.matches(&segments)?;
            Some(Match { method: &route.method, binding, values })
        })
    }
}

fn literal(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Literal(text) => Some(text.clone()),
        Segment::Field(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_find_their_methods() {
        let schema = Schema::load().unwrap();
        let router = Router::new(&schema).unwrap();
        let find = |verb, path| {
            router.find(&verb, path).map(|found| {
                (
                    found.method.descriptor.name().to_owned(),
                    found.values.first().map(|(_, value)| (*value).to_owned()),
                )
            })
        };
        assert_eq!(find(Verb::GET, "/api/budgets"), Some(("ListBudgets".to_owned(), None)));
        assert_eq!(find(Verb::GET, "/api/budgets/status"), Some(("GetBudgetStatus".to_owned(), None)));
        assert_eq!(find(Verb::GET, "/api/budgets/b1"), Some(("GetBudget".to_owned(), Some("b1".to_owned()))));
        assert_eq!(find(Verb::GET, "/v1/policy"), Some(("GetPolicy".to_owned(), None)));
        assert_eq!(find(Verb::PUT, "/api/budgets"), None);
        assert_eq!(find(Verb::GET, "/api/budgets/"), None);
        assert_eq!(find(Verb::GET, "/API/budgets"), None);
    }
}

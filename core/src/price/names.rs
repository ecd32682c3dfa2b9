//! Every name that a call of one model goes by, for rules that name a model rather than price it.

use super::{Catalogue, Prices, resolve};
use crate::id::OrgId;

impl Prices {
    /// The names of the model that a caller writes as `model`: as written, in lower case, without a vendor before it
    /// (`openai/…`), the base of a fine-tune, the base of a dated snapshot, and the id of whatever a look-up would come
    /// by in any layer. Without repeats.
    #[must_use]
    pub fn names_of(&self, org: OrgId, provider: &str, model: &str) -> Vec<String> {
        let lower = model.to_lowercase();
        let mut names: Vec<(&str, &str)> = Vec::new();
        for written in [model, lower.as_str()] {
            names.push((provider, written));
            // Of several, the first names the vendor and the last is what follows all of them.
            names.extend(written.split_once('/'));
            names.extend(written.rsplit_once('/').map(|(_, last)| (provider, last)));
        }
        let bases: Vec<_> =
            names.iter().filter_map(|(of, name)| Some((*of, resolve::fine_tuned(name)?))).collect();
        names.extend(bases);
        let mut all: Vec<String> = Vec::new();
        for (of, name) in names {
            let undated = resolve::undated(name);
            let listed = self.layers(Some(org)).flat_map(|(_, layer)| ids(layer, of, name));
            for found in [Some(name), undated].into_iter().flatten().chain(listed) {
                if !all.iter().any(|known| known == found) {
                    all.push(found.to_owned());
                }
            }
        }
        all
    }
}

/// The ids of the models that a layer lists for a name.
fn ids<'a>(layer: &'a Catalogue, provider: &str, name: &str) -> impl Iterator<Item = &'a str> {
    let entries = [layer.find(provider, name), layer.find_undated(provider, name)];
    let models = entries.into_iter().flatten().flat_map(|(entry, _)| layer.models.get(entry));
    models.filter_map(|of| of.first()).map(|model| model.id())
}

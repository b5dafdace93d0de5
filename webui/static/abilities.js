// What the models can do besides writing: think first, see. The app tells it with a model's recommended sampling.
const known = new Map();

export const setAbilities = (model, abilities) => known.set(model, abilities ?? {});

// {thinking, vision}; undefined as long as nothing is known of that model.
export const abilitiesOf = (model) => known.get(model);

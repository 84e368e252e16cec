"""What the engine is told of scene classification."""

from __future__ import annotations

from classification.task_info import classification_info

SCENE_CLASSIFICATION = classification_info(
    name="places365",
    title="Scene classification",
    accuracy="Scene accuracy",
    predictions_file="scene_predictions.json",
    train_command="tools/train_places365.py",
    predict_command="tools/predict_scene.py",
    packages=("classification", "places365"),
    labels={"indoor_outdoor": "indoor or outdoor"},
    meanings={"indoor_outdoor": "indoor or outdoor told right"},
)

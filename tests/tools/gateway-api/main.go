// Validates objects against resource definitions as kube-apiserver does: unknown members, schema, defaults, and the rules in CEL.
//
//	gateway-api DEFINITION VERSION < OBJECT
//
// Prints one line for each mistake; ends with 1 if there is one, with 2 if a file cannot be read.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

func main() {
	mistakes, err := check(os.Args[1], os.Args[2], os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	for _, mistake := range mistakes {
		fmt.Println(mistake)
	}
	if len(mistakes) > 0 {
		os.Exit(1)
	}
}

func check(definition, version string, from io.Reader) (field.ErrorList, error) {
	props, err := propsOf(definition, version)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(from)
	if err != nil {
		return nil, err
	}
	asJSON, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, err
	}
	// whole numbers stay whole, as the rules expect
	object := map[string]interface{}{}
	if err := json.Unmarshal(asJSON, &object); err != nil {
		return nil, err
	}
	structural, err := schema.NewStructural(props)
	if err != nil {
		return nil, err
	}
	var mistakes field.ErrorList
	unknown := pruning.PruneWithOptions(object, structural, true, schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	for _, path := range unknown {
		mistakes = append(mistakes, field.Forbidden(field.NewPath(path), "is not a member"))
	}
	defaulting.Default(object, structural)
	validator, _, err := validation.NewSchemaValidator(props)
	if err != nil {
		return nil, err
	}
	mistakes = append(mistakes, validation.ValidateCustomResource(nil, object, validator)...)
	if rules := cel.NewValidator(structural, true, celconfig.PerCallLimit); rules != nil {
		of, _ := rules.Validate(context.Background(), nil, structural, object, nil, celconfig.RuntimeCELCostBudget)
		mistakes = append(mistakes, of...)
	}
	return mistakes, nil
}

// The schema of one version of a definition.
func propsOf(file, version string) (*apiextensions.JSONSchemaProps, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var definition v1.CustomResourceDefinition
	if err := yaml.Unmarshal(text, &definition); err != nil {
		return nil, err
	}
	for _, one := range definition.Spec.Versions {
		if one.Name == version && one.Served {
			props := &apiextensions.JSONSchemaProps{}
			err := v1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(one.Schema.OpenAPIV3Schema, props, nil)
			return props, err
		}
	}
	return nil, fmt.Errorf("%s has no served version %s", file, version)
}
